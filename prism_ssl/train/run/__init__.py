"""A run: its folder, its totals, what the workers are given, and what each end means."""
