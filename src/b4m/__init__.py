"""B4M: a low-rank adapter broken into a content factor and a style factor, for text-to-image customization.

    import b4m

    content = b4m.train_content(content_dir="my_bear/", content_class="teddybear", partner_dirs=["styles/a.png"])
    style = b4m.train_style(style_dir="yarn/", style_class="yarn", partner_dirs=["things/a.png"])
    model = b4m.load(content_file=content, style_file=style)
    images = model.draw("snq teddybear in w@z yarn style", seeds=[0, 1], style_strength=0.8)

Importing is light: torch and Diffusers are loaded by the first call.
"""

from typing import TYPE_CHECKING, Any

from .core.errors import UserError

if TYPE_CHECKING:
    from .apps.api import (
        Model,
        evaluate,
        export,
        generate,
        load,
        push,
        second_stage,
        train,
        train_content,
        train_style,
    )

__version__ = "0.1.0"
__all__ = [
    "Model",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "generate",
    "load",
    "push",
    "second_stage",
    "train",
    "train_content",
    "train_style",
]


def __getattr__(name: str) -> Any:
    """The functions of `apps.api`, imported when they are asked for."""
    if name in __all__:
        from .apps import api

        return getattr(api, name)
    raise AttributeError(f"module 'b4m' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
