"""Start or join a Ray cluster, export metrics from it, and clean up after it."""
