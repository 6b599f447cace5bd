"""Command-line entry points: one script per subcommand."""
