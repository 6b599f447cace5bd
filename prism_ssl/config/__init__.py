"""Settings of a run: frozen, validated dataclasses, and the recipes that return them."""
