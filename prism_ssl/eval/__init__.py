"""What an encoder has learned, asked of scans that it has never seen."""
