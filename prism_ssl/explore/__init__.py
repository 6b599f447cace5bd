"""Reading runs back: what the notebooks show, as functions that need no notebook."""
