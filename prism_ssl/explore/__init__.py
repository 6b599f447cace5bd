"""Tables and charts of the notebooks, as functions that need no notebook."""
