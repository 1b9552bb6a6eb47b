"""Seconds, FLOPs and memory of a step."""
