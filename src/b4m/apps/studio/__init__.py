"""The studio: one page on which contents and styles are taught, mixed, compared and exported.

A project is a folder. What the page knows is in its files; the modules here that decide anything need no Gradio.
"""
