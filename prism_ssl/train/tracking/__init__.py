"""Tie a run folder to its W&B run, and do W&B's work beside the training."""
