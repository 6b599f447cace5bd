"""A run's folder, totals, worker settings, and the meaning of each way to end."""
