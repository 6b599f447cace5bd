"""Show the fields of scans as pictures (``prism picture``, notebook)."""
