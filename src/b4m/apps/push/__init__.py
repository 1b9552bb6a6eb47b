"""A trained file on the Hugging Face hub, with a model card made from what the file says of itself."""
