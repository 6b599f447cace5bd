"""Tie a run folder to its W&B run, and upload in the background."""
