"""Data pipeline: from a catalogue of scans to mixed batches of view pairs."""
