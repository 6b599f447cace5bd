"""Read runs and scans for the notebooks, as functions that need no notebook."""
