"""Check whether the pretext task can be solved without anatomy."""
