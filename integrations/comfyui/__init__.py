"""B4M in ComfyUI: what `custom_nodes` loads."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
