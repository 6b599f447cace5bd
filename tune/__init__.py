"""Command-line entry points: one verb a script."""
