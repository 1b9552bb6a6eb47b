"""Styles made by hand from stuff: yarn, mosaic, cut paper, embroidery, and stitched felt and stained glass, which
the base never sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from world.fields import Array, Fields

from .parameters import RGB, choice, number, tone
from .textures import (
    chance,
    clip,
    covered,
    flag,
    fraction,
    grid,
    length,
    lifted,
    luma,
    mix,
    noise,
    rgb,
    ridge,
    shifted,
    size,
    slopes,
    smooth,
    turned,
)


def knitted(u: Array, v: Array, width: float) -> Array:
    """Brightness of stocking stitch: columns of V shapes, `width` px wide."""
    leg = np.abs(fraction(u / width) - 0.5) * width
    strand = np.abs(np.sin(np.pi * (v - 0.9 * leg) / (0.78 * width)))
    valley = 1 - 0.38 * clip(1.1 - leg / (0.13 * width)) - 0.38 * clip((leg - 0.40 * width) / (0.08 * width))
    return (0.50 + 0.62 * strand) * valley


def garter(u: Array, v: Array, width: float) -> Array:
    """Brightness of garter rows: wavy strands along u."""
    return 0.62 + 0.44 * np.abs(np.sin(np.pi * (v / width + 0.22 * np.sin(2 * np.pi * u / (1.6 * width)))))


def woven(u: Array, v: Array, width: float) -> Array:
    """Brightness of plain linen: threads that pass over and under each other."""
    over = fraction((np.floor(u / width) + np.floor(v / width)) / 2) > 0
    thread = np.abs(np.sin(np.pi * np.where(over, u, v) / width))
    return (np.where(over, 0.68, 0.80) + 0.26 * thread).astype(np.float32)


@dataclass(frozen=True)
class Yarn:
    stitch: float = number(6.0, 11.5, "fine", "chunky")  # px
    kind: str = choice("knit", "crochet", "garter", words=("knit", "crochet", "garter"))
    depth: float = number(0.45, 1.0, "soft", "")
    cloth: RGB = tone(
        {
            "cream": (0.93, 0.86, 0.72),
            "grey": (0.60, 0.62, 0.66),
            "brown": (0.52, 0.36, 0.24),
            "blue": (0.42, 0.54, 0.74),
        },
        "cloth",
    )
    dye: float = number(0.50, 0.85)  # how much of the ground's own colour the cloth takes
    angle: float = number(-0.6, 0.6)


def yarn(f: Fields, p: Yarn) -> Array:
    u, v = turned(f, p.angle)
    if p.kind == "crochet":  # rows run round the silhouette, as in a crocheted toy
        rows = f.dist * 64 / (0.95 * p.stitch)
        beads = np.abs(np.sin(np.pi * (u / p.stitch + 0.5 * np.floor(rows))))
        fabric = 0.46 + 0.46 * np.abs(np.sin(np.pi * rows)) + 0.26 * beads
        below = woven(u, v, 0.75 * p.stitch)
    elif p.kind == "knit":
        fabric, below = knitted(u, v, p.stitch), garter(u, v, 0.85 * p.stitch)
    else:
        fabric, below = garter(u, v, 0.80 * p.stitch), knitted(u, v, 1.1 * p.stitch)
    cloth = mix(rgb(p.cloth), f.ground, p.dye)
    fuzz = 0.94 + 0.12 * noise(f, 4, 23)
    scene = cloth * mix(0.95, below, 0.75 * p.depth) * fuzz
    scene = scene * (1 - 0.45 * lifted(f, 0.05, 0.06, 0.09, 0.02))
    body = (0.05 + 0.95 * f.albedo) * mix(0.92, fabric, p.depth) * (0.74 + 0.38 * f.light) * fuzz
    body = body * (1 - 0.30 * np.exp(f.edge / -0.022))
    frayed = f.dist + 0.018 * (noise(f, 4, 24) - 0.5)
    return mix(scene, body, f.cover(frayed))


@dataclass(frozen=True)
class Mosaic:
    tile: float = number(7.0, 11.5, "small", "large")  # px
    grout: RGB = tone(
        {
            "grey": (0.48, 0.47, 0.46),
            "white": (0.93, 0.92, 0.89),
            "black": (0.11, 0.11, 0.13),
            "brown": (0.40, 0.28, 0.18),
        },
        "grout",
    )
    angle: float = number(-0.7, 0.7)
    ragged: float = number(0.0, 1.0, "even", "broken")
    variety: float = number(0.08, 0.42)
    polish: float = number(0.0, 0.28, "", "shiny")


def mosaic(f: Fields, p: Mosaic) -> Array:
    inside = f.dist < 0
    gx, gy = grid(size(f))
    u, v = turned(f, p.angle)
    bend = p.ragged * 1.1
    wide = np.where(inside, np.float32(p.tile), np.float32(1.45 * p.tile))
    u = np.where(inside, u, gx - 64) + bend * p.tile * 0.7 * (noise(f, 16, 25) - 0.5)
    v = np.where(inside, v, gy - 64) + bend * p.tile * 0.7 * (noise(f, 16, 26) - 0.5)
    b = v / wide
    row = np.floor(b)
    a = u / wide + p.ragged * 0.9 * chance(row, 3)
    column = np.floor(a)
    a, b = a - column, b - row
    cut = p.ragged * 0.22
    left, top = cut * chance(row, column, 1), cut * chance(row, column, 2)
    rim = np.minimum(np.minimum(a - left, 1 - a), np.minimum(b - top, 1 - b)) * wide
    edge = f.edge * 64
    whole = smooth((edge - 0.8) / 2.5)  # no joints through eyes and other small things
    joint = covered(f, rim - 0.75) * np.where(inside, 0.75 * whole, 0.85)
    joint = np.maximum(joint, covered(f, f.ground_edge * 64 - 0.8) * ~inside)
    joint = np.maximum(joint, 0.55 * covered(f, edge - 0.75))
    tone_ = 1 + p.variety * 1.5 * (chance(row, column, 7) - 0.5)
    tint = np.stack([1 + p.variety * 0.35 * (chance(row, column, k) - 0.5) for k in (11, 13, 17)])
    bevel = p.polish * (1.0 - a - b) + 0.4 * p.polish * flag(chance(row, column, 19) > 0.75)
    stone = np.where(inside, f.albedo * (0.86 + 0.20 * f.light), f.ground)
    picture = stone * tint * tone_ + bevel * 0.7
    halo = f.cover(np.abs(f.dist) - 0.016)
    return mix(picture, rgb(p.grout), np.maximum(joint, halo))


@dataclass(frozen=True)
class Papercut:
    frame: RGB = tone(
        {
            "white": (0.96, 0.95, 0.92),
            "red": (0.80, 0.22, 0.20),
            "blue": (0.24, 0.38, 0.66),
            "green": (0.26, 0.50, 0.36),
            "pink": (0.95, 0.70, 0.72),
        },
        "frame",
    )
    hole: float = number(0.93, 1.12)  # half frames, radius of the opening
    petals: float = number(3.0, 9.0)
    depth: float = number(0.03, 0.13, "flat", "deep")  # half frames from sheet to sheet
    wave: float = number(0.01, 0.07, "round", "wavy")
    grain: float = number(0.0, 1.0, "smooth", "rough")


def papercut(f: Fields, p: Papercut) -> Array:
    turn = np.arctan2(f.y, f.x)
    radius = length(f.x, f.y) + p.wave * np.sin(round(p.petals) * turn)
    fibre = 1 + p.grain * (0.16 * (noise(f, 4, 27) - 0.5))
    dx, dy = 0.7 * p.depth, p.depth

    def under(a: Array) -> Array:
        return shifted(a, dx, dy)

    scene = f.ground * 1.0
    step = smooth(0.5 - (under(f.ground_edge) - 0.5 * p.depth) / (p.depth + 0.02)) * f.cover(
        -f.ground_edge + 0.004
    )
    scene = scene * (1 - 0.22 * step)
    colour = rgb(p.frame)
    for i, (at, tint) in enumerate(((p.hole, 0.45), (p.hole + 0.16, 0.0))):
        shade = smooth(0.5 + (under(radius) - at) / (1.3 * p.depth + 0.03))
        scene = scene * (1 - (0.34 - 0.08 * i) * shade)
        scene = mix(scene, mix(colour, 1.0, tint) * (0.94 + 0.04 * i), f.cover(at - radius))
    scene = scene * (1 - 0.50 * lifted(f, dx, dy, 1.2 * p.depth + 0.02))
    rise = np.zeros_like(f.x)
    for k in (0.35, 0.7, 1.0):
        rise += (shifted(f.label, 0.5 * dx * k, 0.5 * dy * k) > f.label) / np.float32(3)
    fold = 0.96 + 0.07 * flag(f.x - f.centre[0] - f.y + f.centre[1] < 0)
    body = f.albedo * fold * (1 - 0.38 * rise)
    body = body + 0.14 * np.exp(-((f.edge / 0.014) ** 2)) * smooth(
        (f.light - 0.45) * 4
    )  # the cut edge is light
    return mix(scene, body, f.inside) * fibre


@dataclass(frozen=True)
class Embroidery:
    thread: float = number(4.0, 7.5, "fine", "thick")  # px
    angle: float = number(-1.4, 1.4)
    sheen: float = number(0.10, 0.75, "matte", "silky")
    cloth: RGB = tone(
        {
            "cream": (0.94, 0.89, 0.78),
            "grey": (0.66, 0.68, 0.70),
            "blue": (0.30, 0.40, 0.58),
            "brown": (0.66, 0.52, 0.36),
            "black": (0.16, 0.16, 0.19),
        },
        "cloth",
    )
    dye: float = number(0.40, 0.75)
    hoop: float = number(0.94, 1.22)  # half frames, radius of the wooden hoop


def embroidery(f: Fields, p: Embroidery) -> Array:
    gx, gy = grid(size(f))
    gx, gy = gx - 64, gy - 64
    # Each part is filled in a direction of its own, so that the threads catch the light differently.
    turn = p.angle + np.float32(2.2) * chance(np.arange(64), 31)
    c, s = np.cos(turn).astype(np.float32)[f.label], np.sin(turn).astype(np.float32)[f.label]
    u, v = gx * c + gy * s, gy * c - gx * s
    row = np.floor(v / p.thread)
    across = (v / p.thread - row) * 2 - 1
    end = ridge(u + 5.5 * p.thread * chance(row, 37), 5.5 * p.thread) * 2.75 * p.thread
    strand = (1 - 0.55 * across * across) * (1 - 0.30 * clip(1 - end / 1.6))
    gleam = p.sheen * (0.34 * (np.abs(c) - 0.5) + 0.22 * clip(1 - np.abs(across + 0.25) * 1.5))
    tone_ = 0.94 + 0.14 * chance(row, 41)
    body = f.albedo * strand * tone_ * (0.82 + 0.32 * f.light) + 0.55 * gleam * (0.35 + f.albedo)
    body = body * (1 - 0.42 * np.exp(f.edge / -0.018))
    cloth = mix(rgb(p.cloth), f.ground, p.dye) * (0.06 + 0.98 * woven(gx, gy, 4.0))
    running = covered(f, np.abs(f.ground_edge * 64) - 1.1) * (fraction((gx + gy) / 9) < 0.66)
    cloth = mix(cloth, f.ground * 0.55 + 0.05, running)
    scene = cloth * (1 - 0.48 * lifted(f, 0.035, 0.045, 0.07, 0.01))
    picture = mix(scene, body, f.inside)
    ring = length(f.x, f.y) - p.hoop
    round_ = 0.80 + 0.35 * clip(1 - np.abs(ring - 0.045) / 0.05)
    wood = rgb((0.72, 0.50, 0.28)) * (round_ * (0.92 + 0.1 * noise(f, 8, 29)))
    picture = picture * (1 - 0.40 * smooth(1 - np.abs(ring) / 0.10))
    picture = mix(picture, picture * 0.62 + 0.05, f.cover(0.1 - ring))
    return mix(picture, wood, f.cover(np.abs(ring - 0.05) - 0.055))


@dataclass(frozen=True)
class Stitch:
    linen: RGB = tone(
        {"cream": (0.86, 0.79, 0.63), "grey": (0.66, 0.67, 0.68), "blue": (0.42, 0.54, 0.70)}, "linen"
    )
    thread: RGB = tone(
        {"white": (0.97, 0.96, 0.92), "red": (0.80, 0.14, 0.16), "black": (0.12, 0.11, 0.13)}, "thread"
    )
    length: float = number(5.0, 11.0, "short", "long")  # px of a stitch
    weave: float = number(4.0, 7.0, "fine", "coarse")  # px
    fuzz: float = number(0.1, 0.6)


def stitch(f: Fields, p: Stitch) -> Array:
    gx, gy = grid(size(f))
    scene = mix(rgb(p.linen), f.ground, 0.5) * woven(gx, gy, p.weave)
    scene = scene * (1 - 0.45 * lifted(f, 0.05, 0.06, 0.08, 0.03))
    felt = f.albedo * (1 + p.fuzz * (0.8 * noise(f, 4, 30) + 0.6 * noise(f, 8, 31) - 0.7))
    felt = felt * (0.76 + 0.24 * clip(f.dist / -0.06)) * (1 - 0.35 * np.exp(f.edge / -0.02))
    rise_x, rise_y = slopes(f.dist, f.pixel)
    along = np.where(
        np.abs(rise_x) > np.abs(rise_y), gy - 0.5 * gx, gx + 0.5 * gy
    )  # dashes lie across the slope
    seam = f.cover(np.abs(f.dist + 0.075) - 0.022) * clip(
        (ridge(along, 1.6 * p.length) - 0.35) * 0.8 * p.length
    )
    dashes = (fraction((gx - gy) / (1.6 * p.length)) < 0.62) & (f.dist > 0.06)
    hem = f.cover(f.ground_edge - 0.022) * dashes
    picture = mix(scene, felt, f.cover(f.dist - 0.02))
    return mix(picture, rgb(p.thread), np.maximum(seam, hem))


@dataclass(frozen=True)
class Glass:
    lead: float = number(2.0, 4.6, "thin", "thick")  # px
    rays: float = number(3.0, 8.0)
    clear: float = number(0.10, 0.55, "deep", "clear")
    glow: float = number(0.15, 0.60, "", "glowing")
    ripple: float = number(0.0, 0.25, "", "rippled")


def glass(f: Fields, p: Glass) -> Array:
    cx, cy, _ = f.centre
    radius = length(f.x - cx, f.y - cy)
    turn = np.arctan2(f.y - cy, f.x - cx)
    count = round(p.rays)
    wave = np.sin(turn * count + 0.4)
    rim = np.abs(wave) * radius * (64 / count)
    ring = np.abs(radius - 0.86) * 64
    pane = np.floor((turn * count + 0.4) / np.pi)
    light = 1 + 0.35 * (chance(pane + 40, (radius > 0.86).astype(np.float32), 43) - 0.5)
    flow = 1 + p.ripple * np.sin(0.75 * (f.x * 40 + f.y * 64 * 0.5) + 6 * noise(f, 32, 32))
    halo = 1.14 - 0.26 * (f.x * f.x + f.y * f.y)
    scene = mix(f.ground, 1.0, p.clear) * (light * halo * flow)
    bright = clip(f.edge / 0.22)
    body = mix(f.albedo * (0.72 + 0.45 * f.light), 1.0, p.glow * bright) * flow
    picture = mix(scene, body, f.inside)
    leads = np.maximum(f.line(max(0.5 * p.lead, 1.5) / 128), f.cover(np.abs(f.dist) - p.lead / 128))
    leads = np.maximum(leads, f.cover(0.96 - np.maximum(np.abs(f.x), np.abs(f.y))))
    behind = np.minimum(np.minimum(rim, ring), f.ground_edge * 64)
    leads = np.maximum(leads, covered(f, behind - p.lead / 2) * (f.dist > 0))
    return mix(picture, 0.06 + 0.10 * smooth((f.light - 0.5) * 2) * luma(f.albedo), leads)
