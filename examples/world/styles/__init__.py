"""How the drawn world looks: style families with parameters, and the picture that a member of one makes of a scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from world.fields import Array, Fields

from . import crafted, drawn, lit, painted, printed
from .parameters import ranges, sample, vocabulary, words_of

__all__ = [
    "FAMILIES",
    "RARE",
    "WORDS",
    "Family",
    "Style",
    "family",
    "member",
    "paint",
    "ranges",
    "sample_style",
]


@dataclass(frozen=True)
class Family:
    """A way of painting, `paint(fields, parameters)`, and the class of its parameters with their ranges."""

    name: str
    parameters: type
    paint: Callable[[Fields, Any], Array]


@dataclass(frozen=True)
class Style:
    """One member of a family; `words` are short phrases that a caption may say of it or leave out."""

    family: str
    parameters: Any
    words: tuple[str, ...] = ()


# The families that the base learns.
FAMILIES: dict[str, Family] = {
    one.name: one
    for one in (
        Family("photo", lit.Photo, lit.photo),
        Family("cartoon", drawn.Cartoon, drawn.cartoon),
        Family("yarn", crafted.Yarn, crafted.yarn),
        Family("sticker", printed.Sticker, printed.sticker),
        Family("mosaic", crafted.Mosaic, crafted.mosaic),
        Family("sketch", drawn.Sketch, drawn.sketch),
        Family("watercolour", painted.Watercolour, painted.watercolour),
        Family("neon", lit.Neon, lit.neon),
        Family("pixel", printed.Pixel, printed.pixel),
        Family("papercut", crafted.Papercut, crafted.papercut),
        Family("oil", painted.Oil, painted.oil),
        Family("crayon", drawn.Crayon, drawn.crayon),
        Family("woodcut", printed.Woodcut, printed.woodcut),
        Family("blueprint", drawn.Blueprint, drawn.blueprint),
        Family("clay", lit.Clay, lit.clay),
        Family("embroidery", crafted.Embroidery, crafted.embroidery),
    )
}

# The families that it never sees.
RARE: dict[str, Family] = {
    one.name: one
    for one in (
        Family("glass", crafted.Glass, crafted.glass),
        Family("chalk", drawn.Chalk, drawn.chalk),
        Family("comic", printed.Comic, printed.comic),
        Family("stitch", crafted.Stitch, crafted.stitch),
    )
}

# Every single word that a caption may need for a style.
WORDS: tuple[str, ...] = tuple(
    sorted(
        {*FAMILIES, *RARE}.union(
            *(vocabulary(one.parameters) for one in (*FAMILIES.values(), *RARE.values()))
        )
    )
)


def family(name: str) -> Family:
    return FAMILIES.get(name) or RARE[name]


def member(name: str, **parameters: Any) -> Style:
    """A particular member of a family; what is not given stays in the middle of its range."""
    chosen = family(name).parameters(**parameters)
    return Style(name, chosen, words_of(chosen))


def sample_style(rng: np.random.Generator, name: str) -> Style:
    """A random member of a family, with the words for all that can be said of it."""
    chosen = sample(family(name).parameters, rng)
    return Style(name, chosen, words_of(chosen))


def paint(fields: Fields, style: Style) -> Array:
    """The scene in the style: (3, n, n) float32, 0..1."""
    return np.clip(family(style.family).paint(_single(fields), style.parameters), 0, 1)


def _single(f: Fields) -> Fields:
    """The fields in single precision throughout: one double, or numpy scalar, would make all that it touches double."""
    x, y, scale = map(float, f.centre)
    arrays = {
        name: getattr(f, name).astype(np.float32, copy=False)
        for name in ("x", "y", "dist", "edge", "albedo", "light", "ground", "ground_edge")
    }
    return replace(f, **arrays, centre=(x, y, scale), foot=float(f.foot))
