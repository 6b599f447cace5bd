"""Find the checkpoint at which a run resumes: on disk, or in W&B."""
