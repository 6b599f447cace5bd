"""What a run has learned, what it sees, and whether it could cheat."""
