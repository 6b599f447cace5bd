"""Record a run while it trains: rows, diagnostics, pictures, console, model card, summary."""
