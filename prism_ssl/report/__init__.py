"""Plots, rankings and held-out tables of runs."""
