"""Weights -> completions, and a model measured on its own samples."""
