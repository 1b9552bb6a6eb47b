"""Typed settings, presets, and how file and flags add up."""
