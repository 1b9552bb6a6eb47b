"""Images from prompts and seeds, with trained files on the base model."""
