"""From a catalogue of scans to mixed batches of prism pairs."""
