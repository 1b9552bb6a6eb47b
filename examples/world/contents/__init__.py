"""The contents of the drawn world: classes with parameters; a Content is one particular member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from world.contents.animals import ANIMALS
from world.contents.markings import KINDS, Marking
from world.contents.parts import FIXED, RGB, Builder, Drawing, Look, Part, Spot
from world.contents.plants import PLANTS
from world.contents.things import THINGS

__all__ = [
    "CLASSES",
    "COLOURS",
    "FIXED",
    "RGB",
    "Content",
    "Drawing",
    "Look",
    "Marking",
    "Part",
    "Spot",
    "draw",
    "pick",
    "sample_content",
]

BUILDERS: dict[str, Builder] = ANIMALS | THINGS | PLANTS
CLASSES: tuple[str, ...] = tuple(BUILDERS)
VARIANTS = 3

COLOURS: dict[str, RGB] = {
    "red": (0.87, 0.16, 0.15),
    "orange": (0.97, 0.52, 0.09),
    "yellow": (0.98, 0.83, 0.14),
    "green": (0.22, 0.65, 0.27),
    "blue": (0.15, 0.39, 0.88),
    "purple": (0.52, 0.23, 0.74),
    "pink": (0.98, 0.52, 0.73),
    "brown": (0.50, 0.30, 0.16),
    "white": (0.96, 0.95, 0.92),
    "black": (0.17, 0.16, 0.19),
}

FACED = {*ANIMALS, "robot", "mushroom"}  # these have a face already
# Where a marking would fall on too narrow a part, or under other parts.
WITHOUT: dict[str, set[str]] = {
    "flower": {"star", "heart", "patch", "checks", "band", "face"},
    "umbrella": {"star", "heart", "patch", "face", "band"},
    "house": {"face", "patch", "heart", "star"},
    "guitar": {"face", "star", "heart", "patch"},
    "cake": {"patch"},
    "tree": {"star", "heart", "patch", "face"},
    "cactus": {"patch"},
    "boat": {"patch", "face", "star", "heart"},
    "train": {"patch"},
    "owl": {"band", "star", "heart", "patch"},
    "snail": {"star", "heart"},
    "rocket": {"face"},
}


@dataclass(frozen=True)
class Content:
    """One particular object: its class, two colours, perhaps a marking, and the numbers that shape it."""

    kind: str
    main: str
    second: str
    marking: Marking | None
    look: Look
    glass: bool = False  # the main colour is a tint of transparent glass; never so in pretraining


def draw(content: Content) -> Drawing:
    return BUILDERS[content.kind](content.look)


def pick(rng: np.random.Generator, names: Sequence[str], *, avoid: Sequence[str] = ()) -> str:
    """One of the names that are not to be avoided, all equally likely."""
    left = [name for name in names if name not in avoid]
    return left[int(rng.integers(len(left)))]


def marking_kinds(kind: str) -> list[str]:
    """The markings that members of a class may have."""
    without = WITHOUT.get(kind, set()) | ({"face"} if kind in FACED else set())
    if not BUILDERS[kind](Look(0, 0, 0)).tiles:
        without = without | {"checks"}
    return [m for m in KINDS if m not in without]


def sample_content(rng: np.random.Generator, kind: str) -> Content:
    colours = tuple(COLOURS)
    main = pick(rng, colours)
    second = pick(rng, colours, avoid=(main,))
    marking = None
    if rng.random() < 0.5:
        marking = Marking(pick(rng, marking_kinds(kind)), pick(rng, colours, avoid=(main, second)))
    a, b = rng.uniform(-1, 1, 2).round(3).tolist()
    return Content(kind, main, second, marking, Look(int(rng.integers(VARIANTS)), a, b))
