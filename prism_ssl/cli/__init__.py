"""The command line: what all tools share."""
