"""What a run is: frozen, validated settings and the recipes that return them."""
