"""What a content is made of: parts with roles that colour them, and where markings and accessories go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from world.shapes import Box, Shape, around, circle, mirrored

RGB = tuple[float, float, float]

# Colours that no caption names.
FIXED: dict[str, RGB] = {
    "dark": (0.11, 0.10, 0.13),
    "light": (0.98, 0.97, 0.94),
    "wood": (0.55, 0.36, 0.20),
    "leaf": (0.27, 0.58, 0.25),
    "tongue": (0.94, 0.44, 0.50),
    "gold": (0.98, 0.72, 0.15),
    "glass": (0.72, 0.88, 0.97),
    "metal": (0.62, 0.65, 0.70),
    "water": (0.55, 0.80, 0.97),
    "tyre": (0.18, 0.18, 0.21),
    "coffee": (0.36, 0.21, 0.13),
}


@dataclass(frozen=True)
class Part:
    """One shape and the role that colours it: main, second, pale, deep (tints of main), or a name of FIXED."""

    shape: Shape
    role: str = "main"
    marked: str = (
        ""  # markings that it carries: all, some (a motif or a band), none; unset: all if it is main
    )
    flat: bool = False  # painted on: the surface does not bulge
    clear: bool = False  # the ground shows through

    def carries(self, marking: str) -> bool:
        """Whether a marking of this kind is painted on this part."""
        marked = self.marked or ("all" if self.role == "main" else "none")
        return marked == "all" or (marked == "some" and marking not in ("stripes", "spots", "checks", "half"))


class Spot(NamedTuple):
    """A place on a content: middle, half-width, tilt in radians."""

    x: float
    y: float
    width: float
    tilt: float = 0.0


@dataclass(frozen=True)
class Drawing:
    """Parts from back to front, in coordinates where a content fills about -0.8..0.8."""

    parts: list[Part]
    mark: Spot  # centre and reach of a marking
    top: Spot  # where a hat sits: the middle of its brim
    upright: bool = True  # bands run across (True) or up and down
    eyes: Spot | None = None  # where sunglasses sit
    neck: Spot | None = None  # where a scarf goes round
    tiles: bool = field(default=True)  # large enough a surface for checks

    @property
    def box(self) -> Box:
        return around(*(part.shape.box for part in self.parts))


class Look(NamedTuple):
    """What tells members of a class apart besides colours: a structural variant and proportions in -1..1."""

    variant: int
    a: float
    b: float


Builder = Callable[[Look], Drawing]


def eyes(x: float, y: float, r: float) -> list[Part]:
    """A pair of eyes at +-x."""
    return [
        Part(mirrored(circle(x, y, r)), "light", flat=True),
        Part(mirrored(circle(x - 0.15 * r, y + 0.1 * r, 0.62 * r)), "dark", flat=True),
        Part(mirrored(circle(x - 0.4 * r, y - 0.2 * r, 0.2 * r)), "light", flat=True),
    ]


def eye(x: float, y: float, r: float) -> list[Part]:
    """One eye, looking left."""
    return [
        Part(circle(x, y, r), "light", flat=True),
        Part(circle(x - 0.2 * r, y + 0.05 * r, 0.62 * r), "dark", flat=True),
        Part(circle(x - 0.4 * r, y - 0.25 * r, 0.2 * r), "light", flat=True),
    ]
