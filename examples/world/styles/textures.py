"""What styles are made of: noise, stripes, cells, shadows and light on a grid of points.

Lengths called px are 128ths of the frame, whatever the number of points; a texture's period is at least 4 px, so
that it survives a small autoencoder. What is random comes from a table that is the same on every machine.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import cos, sin

import numpy as np

from world.fields import Array, Fields

from .parameters import RGB

PX = 1 / 64  # half frames in one 128th of the frame
BEVEL = 0.34  # half frames over which a silhouette rounds off


def mix(a: Array | float, b: Array | float, t: Array | float) -> Array:
    return a + (b - a) * t


def clip(a: Array) -> Array:
    return np.clip(a, 0, 1)


def flag(where: Array) -> Array:
    """1 where it holds, else 0."""
    return where.astype(np.float32)


def rgb(colour: RGB) -> Array:
    """A colour that broadcasts against images: (3, 1, 1)."""
    return np.array(colour, np.float32).reshape(3, 1, 1)


def luma(image: Array) -> Array:
    return 0.3 * image[0] + 0.59 * image[1] + 0.11 * image[2]


def saturated(image: Array, amount: float) -> Array:
    """The colours further from grey (amount > 1) or nearer to it."""
    return clip(image * amount + (1 - amount) * luma(image))


def vivid(image: Array) -> Array:
    """The colour made brighter, but not fully: at full brightness brown would be orange."""
    return image / np.sqrt(np.maximum(image.max(0), 0.25))


def length(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y)  # five times as fast as hypot


def fraction(a: Array) -> Array:
    """What is left above the next lower whole number: twenty times as fast as a % 1."""
    return a - np.floor(a)


def smooth(a: Array) -> Array:
    """0..1 eased in and out."""
    a = clip(a)
    return a * a * (3 - 2 * a)


# --- grids and stripes -----------------------------------------------------------------------------


@lru_cache(maxsize=4)
def grid(n: int) -> tuple[Array, Array]:
    """Point centres in px."""
    t = (np.arange(n, dtype=np.float32) + 0.5) * np.float32(128 / n)
    gx, gy = np.meshgrid(t, t)
    return gx, gy


def size(f: Fields) -> int:
    return f.x.shape[-1]


def turned(f: Fields, angle: float) -> tuple[Array, Array]:
    """Coordinates in px along and across a direction (radians) about the middle of the frame."""
    gx, gy = grid(size(f))
    c, s = cos(angle), sin(angle)
    return (gx - 64) * c + (gy - 64) * s, (gy - 64) * c - (gx - 64) * s


def ridge(u: Array, period: float) -> Array:
    """Triangle wave: 0 at multiples of the period, 1 half-way between."""
    u = u * np.float32(1 / period)
    return np.abs(u - np.rint(u)) * 2


def covered(f: Fields, px: Array) -> Array:
    """Antialiased coverage of where a distance in px is negative."""
    return np.clip(0.5 - px * (size(f) / 128), 0, 1)


# --- chance ----------------------------------------------------------------------------------------

CHANCE = np.random.default_rng(12).random(4096).astype(np.float32)


def chance(*keys: Array | int) -> Array:
    """A fixed random number in 0..1 for whole-numbered keys, such as the row and column of a cell."""
    at = 0
    for key, prime in zip(keys, (1, 61, 1511, 2741), strict=False):
        at = at + (key.astype(np.int32) if isinstance(key, np.ndarray) else int(key)) * prime
    return CHANCE.take(at & 4095)


@lru_cache(maxsize=64)  # 16 MB at n = 256
def _noise(n: int, period: int, salt: int) -> Array:
    """Smooth noise within 0..1, mean 0.5, that repeats at the frame's borders; one bump is `period` px wide."""
    cells = 128 // period
    lattice = np.random.default_rng([salt, period]).random((cells, cells)).astype(np.float32)
    t = (np.arange(n, dtype=np.float32) + 0.5) * (cells / n)
    i = t.astype(int)
    u = t - i
    weights = (
        (1 - u) ** 3 / 6,
        (3 * u**3 - 6 * u**2 + 4) / 6,
        (-3 * u**3 + 3 * u**2 + 3 * u + 1) / 6,
        u**3 / 6,
    )
    rows = sum(w[:, None] * lattice[(i + k) % cells] for k, w in enumerate(weights))
    both = sum(w[None] * rows[:, (i + k) % cells] for k, w in enumerate(weights))
    return clip(0.5 + (both - both.mean()) / (5 * both.std())).astype(np.float32)


def noise(f: Fields, period: int, salt: int = 0) -> Array:
    """Smooth noise within 0..1, shifted by the scene's seed; `period` in px divides 128."""
    n = size(f)
    at = np.random.default_rng([f.seed & 0x7FFFFFFF, salt, period]).integers(0, n, 2)
    return np.roll(_noise(n, period, salt), tuple(at.tolist()), (0, 1))


def streaks(f: Fields, u: Array, v: Array, period: int, salt: int, stretch: float = 6.0) -> Array:
    """Noise within 0..1 drawn out along u: what a dry brush, wax or chalk leaves; coordinates in px."""
    n = size(f)
    k = np.float32(n / 128)
    columns, rows = (u * (k / stretch)).astype(np.int32) % n, (v * k).astype(np.int32) % n
    return gathered(noise(f, period, salt), rows * n + columns)


# --- moving things ---------------------------------------------------------------------------------


def shifted(a: Array, dx: float, dy: float) -> Array:
    """The array moved by half frames, its borders filling the gap."""
    n = a.shape[-1]
    rows = np.clip(np.arange(n) - round(dy * n / 2), 0, n - 1)
    columns = np.clip(np.arange(n) - round(dx * n / 2), 0, n - 1)
    return a[..., rows, :][..., columns]


def gathered(a: Array, at: Array) -> Array:
    """The array, (n, n) or (3, n, n), read at flat places `at`, (n, n)."""
    flat = a.reshape(*a.shape[:-2], -1)
    return np.take(flat, at, axis=-1, mode="clip")


def places(f: Fields, px: Array, py: Array) -> Array:
    """The flat places of the points nearest to coordinates in px."""
    n = size(f)
    column = np.clip(px * (n / 128), 0, n - 1).astype(np.int32)
    row = np.clip(py * (n / 128), 0, n - 1).astype(np.int32)
    return row * n + column


def wobbled(f: Fields, amount: float, period: int = 16) -> Fields:
    """The scene as an unsteady hand draws it: everything shifted by up to about `amount` px."""
    gx, gy = grid(size(f))
    at = places(
        f, gx + (2 * amount) * (noise(f, period, 1) - 0.5), gy + (2 * amount) * (noise(f, period, 2) - 0.5)
    )
    moved = {
        name: gathered(getattr(f, name), at)
        for name in ("dist", "edge", "label", "albedo", "light", "ground", "ground_edge", "ground_area")
    }
    return replace(f, **moved)


def blurred(a: Array) -> Array:
    """The array, (n, n) or (3, n, n), without detail below some 6 px: means over 2 px blocks, smoothly back up."""
    n = a.shape[-1]
    down, up = _blocks(n)
    return up @ (down @ a @ down.T) @ up.T


@lru_cache(maxsize=4)
def _blocks(n: int) -> tuple[Array, Array]:
    few = min(64, n)
    down = flag(np.arange(n) * few // n == np.arange(few)[:, None])
    down /= down.sum(1, keepdims=True)
    at = (np.arange(n, dtype=np.float32) + 0.5) * (few / n) - 0.5
    up = np.exp(
        -(((at[:, None] - np.arange(few)) / 1.1) ** 2)
    )  # smooth, since slopes are taken of what it makes
    return down, (up / up.sum(1, keepdims=True)).astype(np.float32)


# --- light and shadow ------------------------------------------------------------------------------


def slopes(height: Array, pixel: float) -> tuple[Array, Array]:
    """How steeply a height rises to the right and downwards."""
    gx, gy = np.empty_like(height), np.empty_like(height)
    gx[:, 1:-1] = height[:, 2:] - height[:, :-2]
    gy[1:-1] = height[2:] - height[:-2]
    gx[:, 0], gx[:, -1], gy[0], gy[-1] = gx[:, 1], gx[:, -2], gy[1], gy[-2]
    return gx / (2 * pixel), gy / (2 * pixel)


def lit(f: Fields, side: float, bevel: float = BEVEL) -> Array:
    """0..1 light on the rounded silhouette, from the upper left (side -1) to the upper right (1)."""
    t = clip(f.dist / -bevel)
    height = bevel * np.sqrt(t * (2 - t)) - 2 * np.clip(f.dist, 0, 0.1)
    gx, gy = slopes(
        blurred(height), f.pixel
    )  # blurred, or the middle lines of flat shapes would show as folds
    own = clip((-0.55 * side * gx + 0.52 * gy + 0.66) / np.sqrt(1 + gx * gx + gy * gy))
    return mix(own, f.light, 0.35 * max(-side, 0.0) + 0.10)


def cast(f: Fields, side: float, softness: float) -> Array:
    """0..1 shadow that falls on the floor away from the light, dark where the object touches it."""
    cx, _, s = f.centre
    high = np.maximum(f.foot - f.y, 0) * 2.4
    n = size(f)
    columns = np.clip((f.x + side * 0.62 * high + 1) * (n / 2), 0, n - 1).astype(np.int32)
    rows = np.clip((f.foot - high + 1) * (n / 2), 0, n - 1).astype(np.int32)
    away = clip(0.5 - gathered(f.dist, rows * n + columns) / (softness * (0.25 + high)))
    away = away * clip(1.15 - 0.75 * high) * clip((f.foot + 0.03 - f.y) * 30)
    if f.ground_area.any():
        away = away * (f.ground_area > 0)
    contact = np.exp(
        -(((f.x - cx + 0.05 * side) / (0.52 * s)) ** 2) - ((f.y - f.foot) / (0.05 + 0.15 * softness)) ** 2
    )
    return clip(np.maximum(0.75 * away, 0.9 * contact))


def lifted(f: Fields, dx: float, dy: float, softness: float, grow: float = 0.0) -> Array:
    """0..1 shadow of something flat that lies a little above the ground."""
    return smooth(0.5 - (shifted(f.dist, dx, dy) - grow) / softness)
