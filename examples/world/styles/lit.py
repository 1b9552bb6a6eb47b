"""Styles made of light: photograph, modelling clay, neon tubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.fields import Array, Fields

from .parameters import RGB, number, tone
from .textures import (
    blurred,
    cast,
    chance,
    clip,
    flag,
    fraction,
    grid,
    length,
    lifted,
    lit,
    mix,
    noise,
    rgb,
    ridge,
    slopes,
    smooth,
    vivid,
)


@dataclass(frozen=True)
class Photo:
    exposure: float = number(0.80, 1.16, "dark", "bright")
    warmth: float = number(-1.0, 1.0, "cool", "warm")
    side: float = number(-1.0, 1.0)  # where the light comes from, left to right
    softness: float = number(0.05, 0.45, "hard shadow", "soft shadow")
    gloss: float = number(0.0, 1.0, "matte", "glossy")
    vignette: float = number(0.05, 0.30)


def photo(f: Fields, p: Photo) -> Array:
    light = lit(f, p.side)
    far = f.x * f.x + f.y * f.y
    room = blurred(f.ground) * (1.05 - 0.14 * (f.y + 0.6 * p.side * -f.x))
    room = room * (1 - 0.62 * cast(f, p.side, p.softness))
    crease = 1 - 0.34 * np.exp(f.edge / -0.03)
    bounce = 0.10 * f.ground * clip(1 - light) * clip(f.y - f.centre[1] + 0.3)
    deep = 0.36 + 0.24 * p.softness
    body = f.albedo * ((deep + (1.20 - deep) * light) * crease) + bounce
    shine = p.gloss * (0.80 * smooth((light - 0.78) * 6) + 0.22 * smooth((light - 0.50) * 2.5))
    picture = mix(room, mix(body, 1.0, 0.75 * shine), f.inside) * (p.exposure * (1.03 - p.vignette * far))
    tint = rgb((1 + 0.12 * p.warmth, 1 + 0.01 * p.warmth, 1 - 0.15 * p.warmth))
    picture = picture * tint
    return picture * (1.12 - 0.12 * picture)  # a film's shoulder


def fingerprints(f: Fields, period: float, cell: float = 30.0) -> Array:
    """Ridges within -1..1 where thumbs pressed: rings `period` px apart about a place in each cell of the frame."""
    gx, gy = grid(f.x.shape[-1])
    gx, gy = gx + f.seed % 29, gy + f.seed % 23
    column, row = np.floor(gx / cell), np.floor(gy / cell)
    u = gx - (column + 0.35 + 0.30 * chance(column, row, 51)) * cell
    v = gy - (row + 0.35 + 0.30 * chance(column, row, 52)) * cell
    lean = chance(column, row, 53) - 0.5
    far = length(u + lean * v, 0.72 * (v - lean * u))
    pressed = smooth((0.50 * cell - far) / 5) * flag(chance(column, row, 54) < 0.42)
    return np.sin(far * (2 * np.pi / period)) * pressed


@dataclass(frozen=True)
class Clay:
    prints: float = number(0.10, 1.0, "smooth", "rough")
    scale: float = number(4.5, 8.0)  # px from ridge to ridge of a fingerprint
    plump: float = number(0.14, 0.36, "flat", "plump")
    gloss: float = number(0.0, 1.0, "matte", "shiny")
    side: float = number(-1.0, 1.0)
    pastel: float = number(0.0, 0.35, "", "pastel")


def clay(f: Fields, p: Clay) -> Array:
    lumps = noise(f, 16, 3)
    thumbs = fingerprints(f, p.scale)
    gx, gy = slopes(lumps, f.pixel)
    dents = clip(0.5 + 0.05 * (gy - p.side * gx)) - 0.5
    light = lit(f, p.side, p.plump) + (0.5 + 0.9 * p.prints) * dents
    ridges = 0.17 * p.prints * thumbs
    crease = 1 - 0.45 * np.exp(f.edge / -0.028)
    colour = mix(f.albedo, 0.92, p.pastel) * 0.94 + 0.05
    body = colour * ((0.40 + 0.74 * light + ridges) * crease)
    body = mix(body, 1.0, p.gloss * (0.60 * smooth((light - 0.74) * 5) + 0.12 * smooth((light - 0.45) * 3)))
    slab = (mix(f.ground, 0.92, p.pastel) * 0.94 + 0.04) * (
        0.98 + (0.25 + 0.35 * p.prints) * dents + 0.45 * ridges
    )
    slab = slab * (1 - 0.30 * np.exp(f.ground_edge / -0.03))
    shadow = np.maximum(cast(f, p.side, 0.3), 0.7 * lifted(f, -0.05 * p.side, 0.05, 0.14, 0.02))
    return mix(slab * (1 - 0.50 * shadow), body, f.inside)


@dataclass(frozen=True)
class Neon:
    tube: float = number(1.5, 3.6, "thin", "thick")  # px
    glow: float = number(0.06, 0.20, "", "glowing")
    night: RGB = tone(
        {
            "blue": (0.03, 0.05, 0.16),
            "purple": (0.12, 0.03, 0.16),
            "green": (0.02, 0.11, 0.09),
            "black": (0.03, 0.03, 0.04),
            "red": (0.15, 0.03, 0.05),
        },
        "night",
    )
    bricks: float = number(8.0, 20.0, "small bricks", "large bricks")  # px
    fill: float = number(0.05, 0.38)


def neon(f: Fields, p: Neon) -> Array:
    gx, gy = grid(f.x.shape[-1])
    row = np.floor(gy / p.bricks)
    along = gx + fraction(row / 2) * 2 * p.bricks
    joint = np.minimum(ridge(along, 2 * p.bricks) * p.bricks, ridge(gy, p.bricks) * p.bricks / 2)
    wall = 0.55 + 0.45 * clip(joint / 1.4 - 0.3)
    colour = vivid(f.albedo + 0.06)
    halo = 0.55 * np.exp(np.maximum(f.dist, 0) / (-1.8 * p.glow))
    around = rgb(p.night) + 0.30 * f.ground * (1.05 - 0.25 * (f.x * f.x + f.y * f.y))
    scene = wall * (around + 0.55 * colour * halo)
    width = p.tube / 128
    scene = scene + vivid(f.ground) * (0.30 * np.exp(-((f.ground_edge / width) ** 2)))
    tube = np.exp(-((f.edge / width) ** 2) * 0.7)
    inner = colour * (p.fill + 0.35 * np.exp(f.edge / -p.glow))
    scene = mix(scene, inner + 0.04, f.inside)
    return clip(mix(scene, colour, tube) + 0.42 * tube * tube * tube)
