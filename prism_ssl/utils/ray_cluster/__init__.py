"""Start and leave a Ray cluster, map over it, export metrics from it."""
