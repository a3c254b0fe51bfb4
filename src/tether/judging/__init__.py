"""Completions to win rates: judges, length control, intervals."""
