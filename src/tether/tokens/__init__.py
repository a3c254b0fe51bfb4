"""Text to tokens: templates, ids and masks, truncation, batches, and what a preflight can say about them."""
