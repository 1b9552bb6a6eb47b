"""Concept files and LoRA files, read and written."""
