"""Every knob: frozen pydantic models, one file per command; names are TRL's and Hugging Face's."""
