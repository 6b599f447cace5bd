"""Embed an archive with a trained encoder."""
