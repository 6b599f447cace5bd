"""Measure training on the GPU that is there: ``prism bench gpu``."""
