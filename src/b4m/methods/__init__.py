"""One file for each way to learn a content and a style."""
