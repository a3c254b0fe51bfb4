"""tether: tune a language model on preferences, and learn how tightly to hold it to its reference."""
