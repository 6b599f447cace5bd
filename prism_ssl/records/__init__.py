"""Read the records of runs: from run folders, from W&B, and from a cache of both."""
