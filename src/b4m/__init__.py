"""B4M: breaking a low-rank adapter into a content half and a style half for text-to-image customization."""

__version__ = "0.1.0"
