"""Data: files to raw rows to preferences, what is wrong with them, splits and mixes. No torch."""
