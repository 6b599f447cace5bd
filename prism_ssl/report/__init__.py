"""Show what runs have learned: plots, rankings, held-out tables."""
