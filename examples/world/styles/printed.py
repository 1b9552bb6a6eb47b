"""Styles that come off a press or a screen: sticker, pixel art, woodcut, and comic, which the base never sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.fields import Array, Fields

from .parameters import INKS, PAPERS, RGB, choice, number, tone
from .textures import (
    PX,
    clip,
    covered,
    flag,
    fraction,
    grid,
    length,
    lifted,
    mix,
    noise,
    rgb,
    ridge,
    saturated,
    size,
    smooth,
    turned,
    wobbled,
)


@dataclass(frozen=True)
class Sticker:
    border: float = number(2.5, 8.0, "thin border", "wide border")  # px
    rim: RGB = tone(
        {
            "white": (0.98, 0.98, 0.97),
            "black": (0.10, 0.10, 0.12),
            "yellow": (0.99, 0.86, 0.30),
            "pink": (0.99, 0.66, 0.75),
            "blue": (0.50, 0.76, 0.96),
        },
        "border",
    )
    gloss: float = number(0.05, 0.55, "matte", "glossy")
    height: float = number(0.02, 0.10, "", "raised")  # half frames above the ground
    slant: float = number(-0.8, 0.8)
    sheet: str = choice("plain", "stripes", "dots", "checks")


def sticker(f: Fields, p: Sticker) -> Array:
    u, v = turned(f, 0.785)
    if p.sheet == "stripes":
        marks = covered(f, ridge(u, 12) * 6 - 3)
    elif p.sheet == "dots":
        marks = covered(f, length(ridge(u, 11), ridge(v, 11)) * 5.5 - 2.6)
    elif p.sheet == "checks":
        gx, gy = grid(size(f))
        marks = fraction((np.floor(gx / 8) + np.floor(gy / 8)) / 2) * 2
    else:
        marks = np.zeros_like(f.x)
    scene = f.ground * (1.02 - 0.11 * marks)
    border = p.border / 64
    scene = scene * (1 - 0.46 * lifted(f, 0.6 * p.height, p.height, 0.05 + p.height, border))
    scene = mix(scene, rgb(p.rim), f.cover(f.dist - border))
    body = f.albedo * (0.86 + 0.20 * smooth(0.5 - f.y + f.centre[1]))
    body = body * (1 - 0.30 * np.exp(f.edge / -0.012))
    band = f.y - f.centre[1] + p.slant * (f.x - f.centre[0])
    shine = np.maximum(f.cover(band + 0.05), 0.7 * f.cover(np.abs(band - 0.16) - 0.05))
    picture = mix(scene, body, f.inside)
    edge_light = np.exp(-(((f.dist - border + 0.02) / 0.02) ** 2)) * 0.10
    return mix(picture, 1.0, p.gloss * 0.72 * shine * f.cover(f.dist + 0.03)) + edge_light * (p.gloss - 0.2)


@dataclass(frozen=True)
class Pixel:
    block: float = number(2.5, 4.9, "small", "large")  # px, rounded to whole ones
    levels: float = number(4.0, 10.0)
    ink: RGB = tone(
        {
            "black": (0.07, 0.06, 0.10),
            "blue": (0.10, 0.12, 0.40),
            "brown": (0.32, 0.15, 0.08),
            "purple": (0.30, 0.07, 0.34),
        },
        "outline",
    )
    dither: float = number(0.0, 0.34, "flat", "dithered")
    shade: float = number(0.06, 0.42)


def pixel(f: Fields, p: Pixel) -> Array:
    n = size(f)
    k = max(round(p.block) * n // 128, 1)
    blocks = -(-n // k)
    starts = np.arange(blocks) * k
    spots = np.minimum((starts[:, None] + ((np.arange(3) * 2 + 1) * k // 6)).reshape(-1), n - 1)

    def coarse(a: Array) -> Array:
        """Means over the blocks, from nine points in each."""
        return a[..., spots, :][..., spots].reshape(*a.shape[:-2], blocks, 3, blocks, 3).mean((-3, -1))

    solid = coarse((f.dist < 0).astype(np.float32))
    weight = coarse(np.concatenate([f.albedo * (f.dist < 0), f.ground * (f.dist >= 0)]))
    sprite = weight[:3] / np.maximum(solid, 0.1)
    field = weight[3:] / np.maximum(1 - solid, 0.1)
    light, border = coarse(f.light), coarse((f.edge < 1.1 * PX).astype(np.float32))
    i, j = np.indices(solid.shape)
    checker = ((i + j) % 2).astype(np.float32) - 0.5
    steps = (light + 0.5 * p.dither * checker > 0.52).astype(np.float32)
    sprite = sprite * (1.06 - p.shade * (1 - steps))
    sprite = np.round(sprite * p.levels) / p.levels * 0.6 + sprite * 0.4
    inside = solid > 0.32
    ring = np.zeros_like(inside)  # the outline: blocks of the sprite that touch the ground
    ring[1:] |= ~inside[:-1]
    ring[:-1] |= ~inside[1:]
    ring[:, 1:] |= ~inside[:, :-1]
    ring[:, :-1] |= ~inside[:, 1:]
    ink = rgb(p.ink)
    sprite = mix(sprite, ink, np.maximum(0.68 * flag(ring), 0.50 * np.clip(border * 1.6 - 0.5, 0, 1)))
    band = np.sin(i * 0.55 * k * 128 / n) * 0.5
    field = field * (1.0 + p.dither * 0.55 * checker * (0.6 + band))
    picture = np.where(inside, sprite, field).astype(np.float32)
    return picture.repeat(k, 1).repeat(k, 2)[:, :n, :n]


@dataclass(frozen=True)
class Woodcut:
    ink: RGB = tone(INKS, "ink")
    paper: RGB = tone(PAPERS, "paper")
    spacing: float = number(5.5, 10.0, "fine", "coarse")  # px from one cut to the next
    angle: float = number(-1.5, 1.5)
    heavy: float = number(0.15, 0.60, "light", "dark")  # how much of the block stays uncut
    colour: float = number(0.45, 0.95)  # strength of the second, coloured block
    cuts: str = choice("lines", "rings", "rays")


def woodcut(f: Fields, p: Woodcut) -> Array:
    f = wobbled(f, 1.0, 8)
    ink, paper = rgb(p.ink), rgb(p.paper)
    cx, cy, _ = f.centre
    u, v = turned(f, p.angle)
    sway = 4 * noise(f, 16, 20)
    taper = (noise(f, 16, 21) - 0.5) * 0.55
    if p.cuts == "rings":
        wave = ridge(length(f.x - cx, f.y - cy) * 64 + sway, 1.35 * p.spacing)
    elif p.cuts == "rays":
        count = round(300 / (1.6 * p.spacing))
        wave = ridge(np.arctan2(f.y - cy, f.x - cx) * (count / 6.2832) + 0.05 * sway, 1.0)
    else:
        wave = ridge(v + sway, 1.35 * p.spacing)
    hardness = 0.21 * size(f) / 128 * p.spacing  # softer than the outlines, as if worn
    uncut = 0.18 + 0.62 * p.heavy + 0.12 * flag(f.ground_area > 0)
    far = clip((uncut + taper - wave) * hardness + 0.5) * clip((f.dist - 0.035) / f.pixel)
    far = np.maximum(far, f.cover(f.ground_edge - 0.016) * f.cover(0.03 - f.dist))
    shade = clip(0.86 - 1.15 * f.light + 0.5 * (p.heavy - 0.45)) + 0.3 * taper
    near = clip((shade - ridge(u + 0.5 * sway, p.spacing)) * hardness + 0.5) * (shade > 0.16) * f.inside
    lines = np.maximum(f.line(0.014), f.cover(np.abs(f.dist) - 0.024))
    tint = mix(paper, f.ground * (0.3 + 0.7 * paper), p.colour)
    body = mix(paper, f.albedo * (0.3 + 0.7 * paper), p.colour)
    picture = mix(tint, body, f.inside)
    picture = mix(
        picture, paper, 0.85 * f.cover(np.abs(f.dist - 0.034) - 0.016)
    )  # the gouge went round the figure
    printed = np.maximum(0.88 * np.maximum(far, near), lines) * (0.90 + 0.10 * noise(f, 4, 22))
    return mix(picture, ink, printed)


@dataclass(frozen=True)
class Comic:
    dot: float = number(4.5, 8.0, "fine", "coarse")  # px
    angle: float = number(0.2, 1.3)
    line: float = number(2.0, 4.6, "thin", "thick")  # px
    burst: RGB = tone(
        {"yellow": (0.99, 0.84, 0.25), "pink": (0.99, 0.62, 0.72), "blue": (0.45, 0.80, 0.97)}, "burst"
    )
    rays: float = number(7.0, 15.0)


def comic(f: Fields, p: Comic) -> Array:
    cx, cy, _ = f.centre
    u, v = turned(f, p.angle)
    dots = length(fraction(u / p.dot) - 0.5, fraction(v / p.dot) - 0.5)
    radius = length(f.x - cx, f.y - cy)
    wave = clip(np.sin(np.arctan2(f.y - cy, f.x - cx) * round(p.rays)) * radius * 25 + 0.5)
    burst = mix(mix(rgb(p.burst), 1.0, 0.65), rgb(p.burst), wave)
    burst = mix(burst, f.ground, 0.45)
    edge = size(f) / 128 * p.dot
    speck = clip((0.55 * clip(radius - 0.35) - dots) * edge + 0.5)
    scene = mix(burst, f.ground * 0.72, 0.85 * speck)
    shade = clip((clip(0.95 - 1.15 * f.light) - dots) * edge + 0.5)
    body = saturated(mix(f.albedo, f.albedo * 0.42, shade), 1.2)
    scene = mix(scene, 1.0, f.cover(f.dist - 0.13))
    outline = np.maximum(
        f.line(max(0.5 * p.line, 1.5) / 128), f.cover(np.abs(f.dist - 0.02) - 1.5 * p.line / 128)
    )
    return mix(mix(scene, body, f.inside), 0.04, outline)
