"""Find the checkpoint at which a run goes on: on disk, or in W&B."""
