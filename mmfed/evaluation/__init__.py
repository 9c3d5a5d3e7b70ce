"""Ranking, beyond-accuracy and rating metrics with intervals; NumPy arrays in, figures out."""
