"""Stop or warn in time: alarms, non-finite losses, quotas, full GPU memory, stop requests."""
