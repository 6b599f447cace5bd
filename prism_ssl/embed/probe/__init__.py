"""Probe frozen embeddings (``prism probe``): a column of the catalogue, labels of a table, or the masks of fields."""
