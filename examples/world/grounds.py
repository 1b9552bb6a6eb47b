"""The grounds: plain, table, grass, sky, room, beach, snow and night, as flat areas of colour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from world.contents import RGB, pick
from world.shapes import Shape, box, circle, star, subtract, union

UPRIGHT, LYING = 0, 1

# Softer than the colours of objects, so that an object stands out from a ground of its own name.
GROUND_COLOURS: dict[str, RGB] = {
    "white": (0.95, 0.95, 0.94),
    "grey": (0.63, 0.64, 0.66),
    "cream": (0.97, 0.91, 0.74),
    "pink": (0.94, 0.74, 0.78),
    "yellow": (0.96, 0.85, 0.48),
    "green": (0.60, 0.79, 0.58),
    "teal": (0.27, 0.58, 0.59),
    "blue": (0.56, 0.74, 0.92),
    "navy": (0.16, 0.21, 0.40),
    "lilac": (0.77, 0.70, 0.90),
}
KINDS = ("plain", "table", "grass", "sky", "room", "beach", "snow", "night")
SHARES = (0.30, 0.13, 0.13, 0.09, 0.13, 0.08, 0.07, 0.07)
WORDS = {
    "table": "on a wooden table",
    "grass": "on grass",
    "sky": "in the sky",
    "beach": "on a beach",
    "snow": "in the snow",
    "night": "at night",
}


@dataclass(frozen=True)
class Ground:
    kind: str
    colour: str  # of a plain ground and of a room's walls, which captions name; of the wall behind a table
    back: float  # how far behind the object's foot the horizon lies, half frames
    detail: float  # 0..1: where clouds, a window, the moon are

    @property
    def words(self) -> str:
        """How a caption says it."""
        if self.kind in WORDS:
            return WORDS[self.kind]
        return f"in a {self.colour} room" if self.kind == "room" else f"on a {self.colour} background"


class Layer(NamedTuple):
    shape: Shape
    colour: RGB
    area: int


def sample_ground(
    rng: np.random.Generator, kinds: tuple[str, ...] | None = None, avoid: tuple[str, ...] = ()
) -> Ground:
    """A random ground, of one of the given kinds; its colour is none of those to avoid."""
    kind = (
        pick(rng, kinds) if kinds else KINDS[int(np.searchsorted(np.cumsum(SHARES), rng.random() * 0.9999))]
    )
    colour = pick(rng, tuple(GROUND_COLOURS), avoid=avoid)
    return Ground(kind, colour, round(float(rng.uniform(0.16, 0.50)), 3), round(float(rng.random()), 3))


def layers(ground: Ground, foot: float) -> tuple[RGB, list[Layer]]:
    """Colour of what is farthest away, and the areas in front of it from back to front, in frame coordinates."""
    horizon = min(max(foot - ground.back, -0.15), 0.62)
    d = ground.detail
    wall = GROUND_COLOURS[ground.colour]
    if ground.kind == "plain":
        return wall, []
    if ground.kind == "table":
        wood = ((0.72, 0.50, 0.31), (0.60, 0.39, 0.24), (0.83, 0.63, 0.42))[int(d * 2.99)]
        return wall, [Layer(_below(horizon), wood, LYING)]
    if ground.kind == "grass":
        sun = circle(-0.70 + 1.4 * d, -0.72, 0.15)
        return (0.66, 0.85, 0.96), [
            Layer(sun, (1.0, 0.90, 0.45), UPRIGHT),
            *_clouds(d, 2),
            Layer(_hill(horizon - 0.10, 0.10, 1.6, 6 * d), (0.52, 0.75, 0.45), UPRIGHT),
            Layer(_hill(horizon + 0.04, 0.05, 2.3, 9 * d + 1), (0.42, 0.68, 0.30), LYING),
        ]
    if ground.kind == "sky":
        return (0.50, 0.75, 0.95), _clouds(d, 4)
    if ground.kind == "room":
        floor = ((0.66, 0.50, 0.38), (0.55, 0.55, 0.58), (0.80, 0.70, 0.56))[int(d * 2.99)]
        x = -0.62 if (d * 10) % 1 < 0.5 else 0.62
        pane = box(x, -0.50, 0.24, 0.30)
        return wall, [
            Layer(box(x, -0.50, 0.29, 0.35, 0.02), (0.97, 0.96, 0.94), UPRIGHT),
            Layer(pane, (0.68, 0.87, 0.97), UPRIGHT),
            Layer(union(box(x, -0.50, 0.24, 0.025), box(x, -0.50, 0.025, 0.30)), (0.97, 0.96, 0.94), UPRIGHT),
            Layer(_below(horizon - 0.09), (0.96, 0.95, 0.92), UPRIGHT),
            Layer(_below(horizon), floor, LYING),
        ]
    if ground.kind == "beach":
        sun = circle(-0.6 + 1.2 * d, -0.66, 0.15)
        return (0.72, 0.89, 0.97), [
            Layer(sun, (1.0, 0.87, 0.40), UPRIGHT),
            Layer(_below(horizon - 0.22), (0.25, 0.62, 0.78), LYING),
            Layer(_hill(horizon, 0.045, 2.6, 7 * d), (0.96, 0.97, 0.95), LYING),
            Layer(_hill(horizon + 0.06, 0.045, 2.6, 7 * d), (0.94, 0.83, 0.60), LYING),
        ]
    if ground.kind == "snow":
        flakes = [
            circle(
                ((0.37 * i + d) % 1) * 1.9 - 0.95,
                ((0.61 * i + 0.5 * d) % 1) * 1.5 - 0.95,
                0.030 + 0.012 * (i % 3),
            )
            for i in range(13)
        ]
        return (0.62, 0.74, 0.86), [
            Layer(_hill(horizon - 0.14, 0.10, 1.7, 6 * d), (0.80, 0.87, 0.94), UPRIGHT),
            *(Layer(flake, (0.97, 0.98, 1.0), UPRIGHT) for flake in flakes),
            Layer(_hill(horizon, 0.05, 2.2, 8 * d), (0.95, 0.97, 0.99), LYING),
        ]
    if ground.kind == "night":
        stars = [
            star(((0.43 * i + d) % 1) * 1.9 - 0.95, ((0.29 * i + 0.4 * d) % 1) * 1.2 - 0.95, 0.055, 0.4, 4)
            for i in range(9)
        ]
        x = -0.65 + 1.3 * d
        moon = subtract(circle(x, -0.68, 0.17), circle(x + 0.10, -0.74, 0.15))
        return (0.13, 0.16, 0.36), [
            *(Layer(s, (0.98, 0.93, 0.66), UPRIGHT) for s in stars),
            Layer(moon, (0.99, 0.93, 0.70), UPRIGHT),
            Layer(_hill(horizon, 0.07, 1.9, 8 * d), (0.22, 0.30, 0.38), LYING),
        ]
    raise ValueError(f"no ground of kind {ground.kind!r}")


def _below(horizon: float) -> Shape:
    return Shape(lambda x, y: horizon - y, (-9, horizon, 9, 9))


def _hill(top: float, height: float, rate: float, phase: float) -> Shape:
    return Shape(lambda x, y: top + height * np.sin(rate * x[:1] + phase) - y, (-9, top - height, 9, 9))


def _clouds(detail: float, count: int) -> list[Layer]:
    puffs = []
    for i in range(count):
        x, y = (
            ((0.55 * i + detail) % 1) * 2 - 1,
            (-0.74, -0.30, 0.38, 0.74)[i] + 0.10 * ((7 * detail + i) % 1),
        )
        r = 0.12 + 0.04 * ((3 * detail + 0.4 * i) % 1)
        puffs.append(
            Layer(
                union(
                    box(x, y + 0.35 * r, 2.1 * r, 0.65 * r, 0.6 * r),
                    circle(x - 0.6 * r, y - 0.15 * r, 0.85 * r),
                    circle(x + 0.6 * r, y - 0.35 * r, r),
                ),
                (0.97, 0.98, 1.0),
                UPRIGHT,
            )
        )
    return puffs
