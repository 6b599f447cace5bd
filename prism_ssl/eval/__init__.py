"""Measure what an encoder has learned, on held-out patients."""
