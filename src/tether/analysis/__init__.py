"""Sequences, tokens, drift and statistics on saved numbers: numpy and scipy, no torch."""
