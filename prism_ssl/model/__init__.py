"""Encoder, heads, losses and schedules."""
