"""Embed points of a scan (``prism field``): a lattice over it, a table's points, a mask's labels, or a covering."""
