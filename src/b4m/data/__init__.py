"""Reference images: read, checked, upright and of one size."""
