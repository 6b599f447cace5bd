"""A sweep: its folder, its trials under Ray Tune, its console and its report."""
