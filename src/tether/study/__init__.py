"""A study: many runs that share what can be shared, measured alike, and what they say together."""
