"""Models and their log-probs: loading, layouts, the head, references."""
