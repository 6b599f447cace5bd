"""Read what runs have left: run folders, W&B, and a cache of both."""
