"""Helpers that know nothing of scans or models: files, hashes, signals, Ray, W&B."""
