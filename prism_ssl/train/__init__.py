"""The training run: cluster, loop, record, checkpoint."""
