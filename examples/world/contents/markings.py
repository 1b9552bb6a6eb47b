"""Markings: what is painted on a content, as distance functions about the place that its class gives for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.contents.parts import Drawing, Spot
from world.shapes import Array, Shape, arc, circle, heart, mirrored, moved, star, union

# Motifs sit once at the class's place for markings; patterns cover every part of the main colour.
MOTIFS = ("star", "heart", "patch", "face")
PATTERNS = ("band", "stripes", "spots", "checks", "half")
KINDS = MOTIFS + PATTERNS


@dataclass(frozen=True)
class Marking:
    kind: str
    colour: str  # ignored by "face", which is dark

    @property
    def words(self) -> str:
        """How a caption says it: "with blue stripes"."""
        if self.kind == "face":
            return "with a face"
        if self.kind in ("stripes", "spots", "checks"):
            return f"with {self.colour} {self.kind}"
        article = "an" if self.colour[0] in "aeiou" else "a"
        return f"with {article} {self.colour} {self.kind}"


def shape_of(marking: Marking, drawing: Drawing) -> Shape:
    """The region that the marking paints."""
    at = drawing.mark
    return _SHAPES[marking.kind](at, drawing.upright)


def _wave(t: Array, period: float, share: float) -> Array:
    """Distance to bands of `period` that take `share` of it, one of them centred on 0."""
    return np.abs((t / period + 0.5) % 1 - 0.5) * period - 0.5 * share * period


def _along(upright: bool, x: Array, y: Array, at: Spot) -> Array:
    return y - at.y if upright else x - at.x


def _band(at: Spot, upright: bool) -> Shape:
    wide = max(0.09, 0.36 * at.width)
    return Shape(lambda x, y: np.abs(_along(upright, x, y, at)) - wide)


def _stripes(at: Spot, upright: bool) -> Shape:
    period = min(max(0.85 * at.width, 0.17), 0.24)
    return Shape(lambda x, y: _wave(_along(upright, x, y, at), period, 0.5))


def _spots(at: Spot, upright: bool) -> Shape:
    period = min(max(0.80 * at.width, 0.19), 0.24)

    def distance(x: Array, y: Array) -> Array:
        u, v = x - at.x, y - at.y
        rows = [
            (np.abs((u / period + s) % 1 - 0.5) * period, np.abs((v / period + s) % 1 - 0.5) * period)
            for s in (0.5, 0)
        ]
        (a, b), (c, d) = rows
        return np.sqrt(np.minimum(a * a + b * b, c * c + d * d)) - 0.24 * period

    return Shape(distance)


def _checks(at: Spot, upright: bool) -> Shape:
    period = 0.28

    def distance(x: Array, y: Array) -> Array:
        a, b = _wave(x - at.x, period, 0.5), _wave(y - at.y, period, 0.5)
        return np.where((a < 0) == (b < 0), np.float32(-1), np.float32(1)) * np.minimum(np.abs(a), np.abs(b))

    return Shape(distance)


def _half(at: Spot, upright: bool) -> Shape:
    return Shape(lambda x, y: at.x - x)


def _face(at: Spot, upright: bool) -> Shape:
    r = min(max(at.width, 0.17), 0.28)
    shape = union(mirrored(circle(0.45, -0.22, 0.17)), arc(0, -0.04, 0.48, 0.06, 0.44, 0.085, 6))
    return moved(shape, at.x, at.y, r)


_SHAPES = {
    "star": lambda at, _: star(at.x, at.y, 1.05 * at.width, 0.45),
    "heart": lambda at, _: heart(at.x, at.y, 0.9 * at.width),
    "patch": lambda at, _: union(
        circle(at.x + 0.35 * at.width, at.y - 0.30 * at.width, 0.62 * at.width),
        circle(at.x - 0.10 * at.width, at.y + 0.10 * at.width, 0.58 * at.width),
    ),
    "face": _face,
    "band": _band,
    "stripes": _stripes,
    "spots": _spots,
    "checks": _checks,
    "half": _half,
}
