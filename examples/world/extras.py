"""What a content may wear and what may stand with it: accessories, and second objects beside or below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from world.contents import COLOURS, Content, Drawing, Part, Spot, draw, pick
from world.shapes import (
    Box,
    Shape,
    box,
    capsule,
    circle,
    ellipse,
    intersect,
    mirrored,
    moved,
    polygon,
    stroke,
    union,
)

ACCESSORIES = ("hat", "crown", "bow", "scarf", "sunglasses")
BESIDE = ("ball", "balloon", "flower", "gift")
BELOW = ("cushion", "rug", "boat")
SECONDS = BESIDE + BELOW


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


@dataclass(frozen=True)
class Accessory:
    kind: str
    colour: str  # a crown's is always gold

    @property
    def words(self) -> str:
        if self.kind == "sunglasses":
            return f"wearing {self.colour} sunglasses"
        return (
            "wearing a crown" if self.kind == "crown" else f"wearing {article(f'{self.colour} {self.kind}')}"
        )


@dataclass(frozen=True)
class Second:
    kind: str
    colour: str
    left: bool  # on which side, if beside

    @property
    def words(self) -> str:
        return f"{'with' if self.kind in BESIDE else 'on'} {article(f'{self.colour} {self.kind}')}"


def sample_accessory(rng: np.random.Generator, content: Content) -> Accessory:
    drawing = draw(content)
    missing = [k for k, spot in (("scarf", drawing.neck), ("sunglasses", drawing.eyes)) if spot is None]
    if content.marking and content.marking.kind == "face":
        missing.append("sunglasses")
    kind = pick(rng, ACCESSORIES, avoid=missing)
    return Accessory(kind, pick(rng, tuple(COLOURS), avoid=(content.main, content.second)))


def sample_second(rng: np.random.Generator, content: Content, kinds: tuple[str, ...] = SECONDS) -> Second:
    kind = pick(rng, kinds, avoid=(content.kind,))
    return Second(
        kind, pick(rng, tuple(COLOURS), avoid=(content.main, content.second)), bool(rng.integers(2))
    )


# --- accessories: unit shapes moved to the spot that the content's drawing gives -----------------------


def _hat(_: Drawing) -> list[Part]:
    return [
        Part(polygon((-0.56, 0.0), (-0.50, -0.72), (0.50, -0.72), (0.56, 0.0), round_=0.10)),
        Part(box(0, -0.14, 0.66, 0.14), "light", flat=True),
        Part(capsule(-0.98, 0.04, 0.98, 0.04, 0.13)),
    ]


def _crown(_: Drawing) -> list[Part]:
    teeth = polygon(
        (-0.72, 0.12),
        (-0.84, -0.66),
        (-0.42, -0.26),
        (0, -0.84),
        (0.42, -0.26),
        (0.84, -0.66),
        (0.72, 0.12),
        round_=0.05,
    )
    return [
        Part(teeth, "gold"),
        Part(union(circle(0, -0.12, 0.12), mirrored(circle(0.44, -0.08, 0.10))), "gem", flat=True),
        Part(union(circle(0, -0.88, 0.11), mirrored(circle(0.84, -0.70, 0.11))), "gold"),
    ]


def _bow(_: Drawing) -> list[Part]:
    return [
        Part(mirrored(polygon((0.10, -0.12), (0.76, -0.56), (0.76, 0.26), round_=0.12))),
        Part(circle(0, -0.14, 0.22), "deep"),
    ]


def _scarf(_: Drawing) -> list[Part]:
    tail = polygon((0.38, 0.10), (0.76, 0.02), (0.86, 0.92), (0.46, 0.96), round_=0.06)
    return [
        Part(tail),
        Part(box(0.66, 0.80, 0.22, 0.07), "light", flat=True),
        Part(capsule(-0.94, 0, 0.94, 0, 0.25)),
        Part(circle(0.56, 0.06, 0.25), "deep"),
    ]


def _sunglasses(_: Drawing) -> list[Part]:
    lens = box(0.50, 0.02, 0.36, 0.31, 0.22)
    rim = Shape(lambda x, y: lens(x, y) - 0.10, (0.04, -0.40, 0.96, 0.44))
    return [
        Part(union(mirrored(rim), capsule(-0.95, -0.16, 0.95, -0.16, 0.09))),
        Part(mirrored(lens), "dark", flat=True),
        Part(mirrored(capsule(0.40, -0.06, 0.50, -0.16, 0.05)), "light", flat=True),
    ]


_WORN: dict[str, tuple[Callable[[Drawing], list[Part]], str]] = {
    "hat": (_hat, "top"),
    "crown": (_crown, "top"),
    "bow": (_bow, "top"),
    "scarf": (_scarf, "neck"),
    "sunglasses": (_sunglasses, "eyes"),
}


def worn(accessory: Accessory, drawing: Drawing) -> list[Part]:
    """The parts of an accessory, in the coordinates of the content that wears it."""
    build, place = _WORN[accessory.kind]
    spot: Spot = getattr(drawing, place)
    return [
        Part(moved(p.shape, spot.x, spot.y, spot.width, spot.tilt), p.role, "none", p.flat)
        for p in build(drawing)
    ]


# --- second objects: standing on y = 0 with their middle at x = 0 ---------------------------------------


def _ball() -> list[Part]:
    disc = circle(0, -0.24, 0.24)
    return [
        Part(disc),
        Part(
            intersect(disc, union(ellipse(-0.30, -0.24, 0.18, 0.40), ellipse(0.30, -0.24, 0.18, 0.40))),
            "light",
            flat=True,
        ),
    ]


def _balloon() -> list[Part]:
    return [
        Part(stroke((0, 0.0), (0.04, -0.25), (-0.02, -0.5), (0, -0.72), r=0.016), "dark"),
        Part(polygon((0, -0.78), (0.06, -0.68), (-0.06, -0.68), round_=0.01), "deep"),
        Part(ellipse(0, -1.06, 0.25, 0.31)),
        Part(ellipse(-0.10, -1.17, 0.045, 0.08), "light", flat=True),
    ]


def _flower() -> list[Part]:
    petals = union(
        *(circle(0.135 * sin(2 * pi * i / 5), -0.50 - 0.135 * cos(2 * pi * i / 5), 0.11) for i in range(5))
    )
    return [
        Part(union(capsule(0, -0.4, 0, -0.02, 0.03), capsule(0.02, -0.08, 0.16, -0.20, 0.03, 0.055)), "leaf"),
        Part(petals),
        Part(circle(0, -0.50, 0.095), "gold"),
    ]


def _gift() -> list[Part]:
    return [
        Part(mirrored(ellipse(0.10, -0.52, 0.10, 0.07)), "light"),
        Part(box(0, -0.21, 0.23, 0.21, 0.02)),
        Part(box(0, -0.42, 0.26, 0.06, 0.02)),
        Part(box(0, -0.23, 0.055, 0.24), "light", flat=True),
    ]


def _cushion(w: float) -> list[Part]:
    return [
        Part(mirrored(circle(w + 0.10, 0.13, 0.055)), "gold"),
        Part(box(0, 0.09, w + 0.10, 0.15, 0.14)),
        Part(box(0, 0.09, w + 0.04, 0.018, 0.01), "deep", flat=True),
    ]


def _rug(w: float) -> list[Part]:
    oval = ellipse(0, 0.04, w + 0.26, 0.17)
    return [
        Part(oval),
        Part(ellipse(0, 0.04, w + 0.16, 0.105), "light", flat=True),
        Part(ellipse(0, 0.04, w + 0.08, 0.065), flat=True),
    ]


def _boat(w: float) -> list[Part]:
    return [
        Part(polygon((-w - 0.24, -0.06), (w + 0.24, -0.06), (w - 0.02, 0.30), (0.02 - w, 0.30), round_=0.06)),
        Part(box(0, -0.06, w + 0.34, 0.05, 0.04), "wood"),
    ]


_BESIDE = {"ball": _ball, "balloon": _balloon, "flower": _flower, "gift": _gift}
_BELOW = {"cushion": _cushion, "rug": _rug, "boat": _boat}


def placed(second: Second, main: Box) -> list[Part]:
    """The parts of a second object, placed about the box of the main one."""
    left, _, right, bottom = main
    if second.kind in _BELOW:
        return [
            Part(moved(p.shape, (left + right) / 2, bottom - 0.03), p.role, "none", p.flat)
            for p in _BELOW[second.kind](0.42 * (right - left))
        ]
    reach = 0.16 if second.kind in ("balloon", "flower") else 0.20
    x = left - reach if second.left else right + reach
    return [Part(moved(p.shape, x, bottom), p.role, "none", p.flat) for p in _BESIDE[second.kind]()]
