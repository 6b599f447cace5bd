"""What a training step needs of a GPU: arithmetic, memory, hours (pure)."""
