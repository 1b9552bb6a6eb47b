"""How the drawn world looks: each style turns a picture's fields into an RGB image.

Every texture is locked to the image grid and counted in 64ths of the frame, so that it sits in the same
place in every picture, at every size. Images are (3, n, n) float arrays in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Fields:
    """What a style may know of a scene; distances are in half frames."""

    x: Array  # frame coordinates, -1..1
    y: Array
    dist: Array  # signed distance to the silhouette, negative inside
    edge: Array  # distance to the nearest visible border of a part or a marking
    label: Array  # topmost part, 0 for the ground
    albedo: Array  # (3, n, n) local colour, carried on outside the silhouette
    light: Array  # 0..1, how far the rounded surface faces the light at the upper left
    centre: tuple[float, float, float]  # x, y and scale of the object

    @property
    def pixel(self) -> float:
        return 2 / self.x.shape[-1]

    @property
    def inside(self) -> Array:
        return self.cover(self.dist)

    def cover(self, distance: Array) -> Array:
        """Antialiased coverage of the region where the distance is negative."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def line(self, width: float) -> Array:
        """Coverage of lines along all visible borders."""
        return self.cover(self.edge - width)


Style = Callable[[Fields, Array], Array]


def mix(a: Array, b: Array | float, t: Array | float) -> Array:
    return a + (b - a) * t


def rgb(r: float, g: float, b: float) -> Array:
    return np.array([r, g, b], np.float32).reshape(3, 1, 1)


PIXEL_BLOCKS = 32  # across the frame; coarser sprites lose their faces
INK, PAPER = rgb(0.08, 0.07, 0.10), rgb(0.97, 0.96, 0.93)


def luma(image: Array) -> Array:
    return 0.3 * image[0] + 0.59 * image[1] + 0.11 * image[2]


def vivid(image: Array) -> Array:
    """The colour made brighter, but not fully: at full brightness brown would be orange."""
    return image / np.sqrt(np.maximum(image.max(0), 0.25))


def shifted(a: Array, amount: float) -> Array:
    """The array moved down and right by `amount` half frames, its first row and column filling the gap."""
    n = a.shape[-1]
    source = np.maximum(np.arange(n) - max(1, round(amount * n / 2)), 0)
    return a[source][:, source]


# --- fixed textures --------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def grid(n: int) -> tuple[Array, Array]:
    """Pixel centres in 64ths of the frame."""
    t = (np.arange(n, dtype=np.float32) + 0.5) * (64 / n)
    gx, gy = np.meshgrid(t, t)
    return gx, gy


@lru_cache(maxsize=8)
def smooth_noise(n: int) -> Array:
    """A slow wobble within -1..1."""
    gx, gy = grid(n)
    a = np.sin(gx * 0.31 + 1.7 * np.sin(gy * 0.17)) + np.sin(gy * 0.37 + 1.3 * np.sin(gx * 0.23 + 1))
    return (a * 0.35 + 0.3 * np.sin((gx + gy) * 0.53 + np.sin(gx * 0.4))).astype(np.float32)


@lru_cache(maxsize=8)
def grain(n: int) -> Array:
    """A fixed grain of 2/64 of the frame, within 0..1."""
    lattice = np.random.default_rng(0).random((33, 33)).astype(np.float32)
    gx, gy = grid(n)
    i, j, u, v = (gy // 2).astype(int), (gx // 2).astype(int), (gy / 2) % 1, (gx / 2) % 1
    top = mix(lattice[i, j], lattice[i, j + 1], v)
    return mix(top, mix(lattice[i + 1, j], lattice[i + 1, j + 1], v), u)


@lru_cache(maxsize=8)
def knit(n: int) -> Array:
    """Brightness of stocking stitch: columns of V shapes."""
    gx, gy = grid(n)
    u = np.abs(gx % (16 / 3) - 8 / 3)
    ridge = np.abs(np.sin(np.pi * (gy - 0.9 * u) / 4.0))
    valley = np.where((u < 0.35) | (u > 2.2), 0.65, 1.0).astype(np.float32)
    return (0.50 + 0.62 * ridge) * valley


@lru_cache(maxsize=8)
def purl(n: int) -> Array:
    """Brightness of garter rows: wavy horizontal strands."""
    gx, gy = grid(n)
    return 0.66 + 0.40 * np.abs(np.sin(np.pi * (gy + 0.9 * np.sin(np.pi * gx / 4)) / 4))


@lru_cache(maxsize=8)
def weave(n: int) -> Array:
    """Brightness of plain linen: threads that pass over and under each other."""
    gx, gy = grid(n)
    across = (gx // 2 + gy // 2) % 2 > 0
    thread = np.sin(np.pi * np.where(across, gx, gy) / 2)
    return (np.where(across, 0.62, 0.78) + 0.34 * np.abs(thread)).astype(np.float32)


@lru_cache(maxsize=8)
def tiles(n: int, period: float) -> tuple[Array, Array]:
    """Coverage of the grout between square tiles, and a fixed lightness for each tile."""
    gx, gy = grid(n)
    rim = np.minimum.reduce([gx % period, period - gx % period, gy % period, period - gy % period])
    tone = np.random.default_rng(1).random((64, 64)).astype(np.float32)
    return np.clip(1.1 - 1.6 * rim, 0, 1), tone[(gy // period).astype(int), (gx // period).astype(int)]


@lru_cache(maxsize=8)
def hatch(n: int, period: float, slope: float) -> Array:
    """0..1 triangle wave across diagonal lines, 0 on the lines."""
    gx, gy = grid(n)
    return np.abs(((gx + slope * gy) / period) % 1 - 0.5) * 2


@lru_cache(maxsize=8)
def dots(n: int, period: float) -> Array:
    """Distance to the nearest halftone dot centre, in 64ths, on a grid turned by 45 degrees."""
    gx, gy = grid(n)
    u, v = (gx + gy) / 2**0.5, (gx - gy) / 2**0.5
    return np.hypot(u % period - period / 2, v % period - period / 2)


@lru_cache(maxsize=8)
def rays(n: int, count: int) -> tuple[Array, Array]:
    """Signed sine of `count` rays about the middle of the frame, and the distance to their borders."""
    gx, gy = grid(n)
    wave = np.sin(np.arctan2(gy - 32, gx - 32) * count / 2 + 0.4)
    return wave, np.abs(wave) * np.hypot(gx - 32, gy - 32) * 2 / count


# --- styles seen in pretraining --------------------------------------------------------------------


def photo(f: Fields, ground: Array) -> Array:
    cx, cy, s = f.centre
    floor = np.clip((f.y - 0.35) * 5, 0, 1)
    room = ground * (1.05 - 0.22 * (f.x * f.x + f.y * f.y) * (1 - floor)) * (1 - 0.20 * floor)
    room = room + 0.10 * floor * np.clip(f.y, 0, 1)
    shadow = np.exp(-(((f.x - cx - 0.10) / (0.62 * s)) ** 2) - ((f.y - cy - 0.74 * s) / 0.14) ** 2)
    room = room * (1 - 0.62 * shadow)
    crease = 1 - 0.35 * np.exp(-f.edge / 0.03)
    body = f.albedo * (0.28 + 0.85 * f.light) * crease + 6 * np.clip(f.light - 0.80, 0, 1) ** 2
    return mix(room, body, f.inside)


def cartoon(f: Fields, ground: Array) -> Array:
    hill = f.cover(0.52 - 0.10 * np.sin(3 * f.x + 1) - f.y)
    scene = mix(ground * 1.04, ground * 0.78, hill)
    tone = 0.70 + 0.30 * np.clip((f.light - 0.45) * 12, 0, 1)
    body = mix(f.albedo * tone, 1.0, 0.8 * np.clip((f.light - 0.93) * 30, 0, 1))
    return mix(mix(scene, body, f.inside), INK, f.line(0.037))


def yarn(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    fabric = ground * purl(n) * (1 - 0.5 * f.cover(shifted(f.dist, 0.05) - 0.02))
    body = (0.06 + 0.94 * f.albedo) * knit(n) * (0.72 + 0.40 * f.light)
    return mix(fabric, body, f.inside)


def sticker(f: Fields, ground: Array) -> Array:
    shadow = np.clip(0.5 - (shifted(f.dist, 0.06) - 0.10) / 0.08, 0, 1)
    scene = ground * (1 - 0.45 * shadow)
    scene = mix(scene, PAPER, f.cover(f.dist - 0.105))
    gloss = 0.30 * f.cover(f.y - f.centre[1] + 0.35 * f.x + 0.02)
    return mix(scene, mix(f.albedo, 1.0, gloss * (f.dist < -0.05)), f.inside)


def mosaic(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    small, tone = tiles(n, 4)
    body = mix(f.albedo * (0.80 + 0.40 * tone), 0.16, small * 0.75)
    wide, wide_tone = tiles(n, 8)
    floor = mix(ground * (0.84 + 0.30 * wide_tone), 0.92 - 0.5 * luma(ground), wide * 0.7)
    return mix(mix(floor, body, f.inside), 0.16, 0.85 * f.line(0.024))


def sketch(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    paper = mix(PAPER, ground, 0.14)
    wash = mix(paper, f.albedo, 0.55 * f.inside)
    shade = np.clip(1.15 - 1.2 * f.light, 0, 1)
    strokes = np.clip((shade + 0.10 - hatch(n, 4, 1)) * 4, 0, 1) * f.inside
    cast = np.clip((0.55 - hatch(n, 4, -1)) * 4, 0, 1) * f.cover(shifted(f.dist, 0.12)) * (f.dist > 0)
    marks = np.maximum(0.75 * np.maximum(strokes, 0.7 * cast), f.line(0.028))
    return mix(wash, 0.22, 0.85 * marks * (0.75 + 0.25 * grain(n)))


def watercolour(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    wobble = smooth_noise(n)
    dist = f.dist + 0.028 * wobble
    border = 0.93 + 0.05 * wobble - np.maximum(np.abs(f.x), np.abs(f.y))
    blot = np.clip(np.minimum(border, dist - 0.045) / 0.05, 0, 1)
    pool = np.exp(-np.minimum(border, np.maximum(dist - 0.045, 0)) / 0.06)
    paint = mix(PAPER, ground, blot * np.clip(0.55 + 0.18 * wobble + 0.25 * pool, 0, 1))
    rim = np.exp(-np.minimum(np.abs(dist), f.edge) / 0.035)
    pigment = np.clip(0.66 + 0.24 * wobble - 0.25 * (f.light - 0.5) + 0.45 * rim, 0, 1)
    body = mix(PAPER, f.albedo * (1 - 0.22 * rim), pigment)
    return mix(paint, body, np.clip(0.5 - dist / 0.035, 0, 1)) * (0.97 + 0.04 * grain(n))


def neon(f: Fields, ground: Array) -> Array:
    tube = np.exp(-((f.edge / 0.030) ** 2))
    glow = 0.55 * np.exp(-f.edge / 0.11) + 0.22 * np.exp(-np.maximum(f.dist, 0) / 0.30)
    night = 0.03 + 0.16 * ground * (1.1 - 0.5 * np.hypot(f.x, f.y))
    colour = vivid(f.albedo + 0.06)
    return night + colour * mix(glow, 1.0, tube) + 0.26 * tube**3


def pixel(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    k = n // PIXEL_BLOCKS
    inked = mix(f.albedo * (0.74 + 0.36 * (f.light > 0.5)), INK, f.line(0.03))
    coarse = np.concatenate([mix(0.0, inked, f.inside), f.inside[None]])
    blocks = coarse.reshape(4, PIXEL_BLOCKS, k, PIXEL_BLOCKS, k).mean((2, 4))
    solid = blocks[3] > 0.45
    sprite = np.round(blocks[:3] / np.maximum(blocks[3], 0.1) * 8) / 8
    i, j = np.indices(solid.shape) * 16 // PIXEL_BLOCKS
    field = ground * np.where((i + j) % 2, 0.90, 1.02).astype(np.float32)
    return np.where(solid, sprite, field).repeat(k, 1).repeat(k, 2)


def papercut(f: Fields, ground: Array) -> Array:
    hole = np.hypot(f.x, f.y) + 0.05 * np.sin(6 * np.arctan2(f.y, f.x))
    scene = np.broadcast_to(ground * 0.98, f.albedo.shape)
    for radius, tone in ((1.0, 0.82), (1.2, 0.64)):
        scene = scene * (1 - 0.35 * np.clip(1 - (radius - hole) / 0.10, 0, 1))
        scene = mix(scene, ground * tone + 0.04, f.cover(radius - hole))
    scene = scene * (1 - 0.50 * np.clip(0.5 - shifted(f.dist, 0.09) / 0.10, 0, 1))
    lift = sum((shifted(f.label, a) > f.label).astype(np.float32) for a in (0.03, 0.05, 0.07)) / 3
    facet = 0.94 + 0.10 * (f.x - f.y < 0)
    return mix(scene, f.albedo * facet * (1 - 0.36 * lift), f.inside)


# --- styles held out of pretraining ----------------------------------------------------------------


def glass(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    wave, rim = rays(n, 12)
    tint = mix(ground, PAPER, np.where(wave > 0, 0.30, 0.62).astype(np.float32))
    halo = 1.12 - 0.35 * np.hypot(f.x, f.y)
    panes = np.where(wave > 0, 1.10, 0.86).astype(np.float32)
    body = mix(f.albedo * panes, 1.0, 0.40 * np.clip(f.edge / 0.25, 0, 1))
    picture = mix(tint * halo, body, f.inside)
    frame = np.maximum(f.cover(0.95 - np.maximum(np.abs(f.x), np.abs(f.y))), f.line(0.036))
    leads = np.maximum(frame, np.clip(1.2 - rim, 0, 1) * (f.dist > 0))
    return mix(picture, 0.05, leads)


def chalk(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    board = rgb(0.10, 0.25, 0.19) * (0.90 + 0.20 * smooth_noise(n)) + 0.05 * ground * (grain(n) > 0.6)
    strokes = np.clip(1.5 - 1.0 * hatch(n, 4, 1), 0, 1) * np.clip(0.55 + 0.9 * grain(n), 0, 1)
    colour = mix(vivid(f.albedo), 1.0, 0.12)
    filled = mix(board, colour, 0.92 * strokes * f.inside)
    outline = f.cover(np.minimum(np.abs(f.dist), f.edge + 0.012) - 0.012 - 0.03 * grain(n))
    rough = outline * np.clip(0.3 + grain(n), 0, 1)
    return mix(filled, PAPER, rough)


def comic(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    wave, _ = rays(n, 20)
    burst = np.where(wave > 0, rgb(0.99, 0.84, 0.25), rgb(1.0, 0.95, 0.70))
    speck = np.clip(1.0 * np.hypot(f.x, f.y) * 1.6 - dots(n, 4), 0, 1)
    scene = mix(burst, mix(rgb(0.96, 0.55, 0.15), ground, 0.4), 0.8 * speck)
    shade = np.clip(2.7 - 3.6 * f.light - dots(n, 4) * 0.9, 0, 1)
    body = mix(f.albedo, f.albedo * 0.45, shade)
    scene = mix(scene, 1.0, f.cover(f.dist - 0.13))
    outline = np.maximum(f.line(0.022), f.cover(np.abs(f.dist - 0.02) - 0.035))
    return mix(mix(scene, body, f.inside), 0.03, outline)


def stitch(f: Fields, ground: Array) -> Array:
    n = f.x.shape[-1]
    linen = mix(rgb(0.84, 0.76, 0.60), ground, 0.30) * weave(n)
    scene = linen * (1 - 0.45 * f.cover(shifted(f.dist, 0.05) - 0.05))
    felt = f.albedo * (0.86 + 0.20 * grain(n)) * (0.78 + 0.22 * np.clip(-f.dist / 0.06, 0, 1))
    turn = np.arctan2(f.y - f.centre[1], f.x - f.centre[0])
    thread = f.cover(np.abs(f.dist + 0.075) - 0.026) * np.clip(np.sin(turn * 22) * 4 + 1.6, 0, 1)
    return mix(mix(scene, felt, f.cover(f.dist - 0.02)), PAPER, thread)


PRETRAINING: dict[str, Style] = {
    "photo": photo,
    "cartoon": cartoon,
    "yarn": yarn,
    "sticker": sticker,
    "mosaic": mosaic,
    "sketch": sketch,
    "watercolour": watercolour,
    "neon": neon,
    "pixel": pixel,
    "papercut": papercut,
}
HELD_OUT: dict[str, Style] = {"glass": glass, "chalk": chalk, "comic": comic, "stitch": stitch}
