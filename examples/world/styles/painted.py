"""Styles painted with a brush: watercolour and oil."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.fields import Array, Fields

from .parameters import PAPERS, RGB, number, tone
from .textures import (
    PX,
    chance,
    clip,
    gathered,
    grid,
    length,
    mix,
    noise,
    places,
    rgb,
    saturated,
    smooth,
    wobbled,
)


@dataclass(frozen=True)
class Watercolour:
    paper: RGB = tone({name: PAPERS[name] for name in ("white", "cream", "pink", "blue", "grey")}, "paper")
    pigment: float = number(0.64, 1.05, "pale", "rich")
    wet: float = number(0.6, 4.0, "dry", "wet")  # px by which colours run
    rim: float = number(0.12, 0.80, "", "dark edge")
    blotch: float = number(0.15, 0.75, "even", "blotchy")
    margin: float = number(0.0, 0.16)  # half frames of bare paper around the picture


def watercolour(f: Fields, p: Watercolour) -> Array:
    f = wobbled(f, p.wet)
    paper = rgb(p.paper)
    pools, fine = noise(f, 32, 15) - 0.5, noise(f, 16, 16) - 0.5
    blots = p.blotch * (0.8 * pools + 0.45 * fine)
    border = 0.99 - p.margin - np.maximum(np.abs(f.x), np.abs(f.y)) + 0.05 * fine
    gap = np.minimum(border, f.dist - 0.028) if p.wet < 2.2 else np.minimum(border, f.dist + 0.01)
    blur = 0.012 + 0.007 * p.wet
    pooled = np.exp(np.maximum(np.minimum(gap, f.ground_edge), 0) / -0.045)
    strength = clip(p.pigment * 0.92 + blots + 0.75 * p.rim * (pooled - 0.25)) * smooth(gap / blur + 0.5)
    # Pigment lets light through to the paper, so colours multiply it instead of hiding it.
    scene = paper * mix(1.0, saturated(f.ground, 1.12) * (1 - 0.35 * p.rim * pooled), strength)
    rim = np.exp(f.edge / -0.030)
    body = saturated(f.albedo, 1.15) * (1 - 0.60 * p.rim * rim)
    load = clip(p.pigment + 0.02 + blots - 0.30 * (f.light - 0.55) + 0.45 * p.rim * rim)
    shape = smooth(0.5 - f.dist / blur)
    return mix(scene, mix(paper, 0.97, 0.4) * mix(1.0, body, load), shape) * (0.95 + 0.08 * noise(f, 4, 14))


@dataclass(frozen=True)
class Oil:
    width: float = number(4.5, 9.0, "fine", "broad")  # px of one stroke
    angle: float = number(-1.4, 1.4)
    relief: float = number(0.15, 1.0, "flat", "thick")
    variety: float = number(0.05, 0.32)  # how far strokes differ in lightness
    swirl: float = number(2.0, 16.0, "straight", "swirling")  # px by which the strokes' flow bends
    canvas: RGB = tone(
        {
            "ochre": (0.70, 0.48, 0.22),
            "grey": (0.52, 0.53, 0.56),
            "red": (0.60, 0.25, 0.17),
            "blue": (0.28, 0.36, 0.55),
        }
    )


def oil(f: Fields, p: Oil) -> Array:
    light = 0.62 + 0.50 * f.light
    body = f.albedo * light * (1 - 0.30 * np.exp(f.edge / -0.03))
    body = mix(body, 1.0, 0.45 * smooth((f.light - 0.90) * 10))
    scene = f.ground * (1.02 - 0.12 * f.y)
    scene = scene * (1 - 0.35 * smooth(0.5 - (length((f.x - f.centre[0]) * 0.45, f.y - f.foot) - 0.10) / 0.2))
    picture = mix(scene, body, f.inside)
    inside = f.dist < 0
    gx, gy = grid(f.x.shape[-1])
    bend_x, bend_y = p.swirl * (noise(f, 32, 17) - 0.5), p.swirl * (noise(f, 32, 18) - 0.5)
    # The object's strokes are finer than the ground's, and cross them.
    fine = np.where(inside, np.float32(1), np.float32(0.68))
    c, s = np.float32(np.cos(p.angle)), np.float32(np.sin(p.angle))
    bx, by = gx + bend_x, gy + bend_y
    u, v = bx * c + by * s, by * c - bx * s
    u, v = np.where(inside, u, v) * fine, np.where(inside, v, -u) * fine

    def strokes(shift: float, salt: int) -> tuple[Array, Array, Array, Array]:
        """Places of the strokes' centres, their tone, and where a point lies in its stroke (-1..1 both ways)."""
        across = v / p.width + shift
        row = np.floor(across)
        along = u / (3.8 * p.width) + chance(row, salt)
        column = np.floor(along)
        du, dv = (column + 0.5 - along) * (3.8 * p.width) / fine, (row + 0.5 - across) * p.width / fine
        du, dv = np.where(inside, du, -dv), np.where(inside, dv, du)
        at = places(f, gx + du * c - dv * s, gy + du * s + dv * c)
        return at, chance(row, column, salt), (along - column) * 2 - 1, (across - row) * 2 - 1

    under, tone_a, _, v_a = strokes(0.0, 5)
    over, tone_b, u_b, v_b = strokes(0.5, 9)
    top = u_b * u_b * u_b * u_b + v_b * v_b < 0.80
    at = np.where(top, over, under)
    tone_ = np.where(top, tone_b, tone_a) - 0.5
    across = np.where(top, v_b, v_a)
    # A stroke of the ground may cross borders; one of the object keeps to its colour, or faces would go.
    hue = f.albedo[0] + 2.3 * f.albedo[1] + 5.1 * f.albedo[2]  # no two likely colours agree in this number
    foreign = np.abs(gathered(hue, at) - hue) > 0.25
    own = (gathered(inside, at) != inside) | (inside & (foreign | (f.edge < PX)))
    painted = gathered(picture, np.where(own, np.arange(at.size, dtype=np.int32).reshape(at.shape), at))
    gloss = p.relief * (0.10 * (1 - across * across) - 0.10 * across)
    painted = painted * (1 + p.variety * 1.6 * tone_) + (gloss - 0.06 * p.relief)
    bare = clip((chance(np.floor(u / 17), np.floor(v / 5)) - 0.86) * 5) * (~inside) * (~top)
    return mix(painted, rgb(p.canvas), np.maximum(0.8 * bare, 0.16))
