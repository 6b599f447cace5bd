"""Small helpers without knowledge of scans or models."""
