"""Signed distance functions, each with the box that holds it; y points down, distances are negative inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

Array = np.ndarray
Box = tuple[float, float, float, float]  # left, top, right, bottom
EVERYWHERE: Box = (-9.0, -9.0, 9.0, 9.0)


@dataclass(frozen=True)
class Shape:
    """A signed distance (x, y) -> d, and a box outside of which d is positive."""

    distance: Callable[[Array, Array], Array]
    box: Box = EVERYWHERE

    def __call__(self, x: Array, y: Array) -> Array:
        return self.distance(x, y)


def around(*boxes: Box) -> Box:
    """The smallest box that holds all of them."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def circle(cx: float, cy: float, r: float) -> Shape:
    def distance(x: Array, y: Array) -> Array:
        u, v = x - cx, y - cy
        return np.sqrt(u * u + v * v) - r  # np.hypot takes ten times as long

    return Shape(distance, (cx - r, cy - r, cx + r, cy + r))


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Shape:
    def distance(x: Array, y: Array) -> Array:
        u, v = (x - cx) / rx, (y - cy) / ry
        uu, vv = u * u, v * v
        k = np.sqrt(uu + vv)
        # First-order distance; the floor keeps the centre finite.
        return k * (k - 1) / np.maximum(np.sqrt(uu / (rx * rx) + vv / (ry * ry)), 1e-3)

    return Shape(distance, (cx - rx, cy - ry, cx + rx, cy + ry))


def box(cx: float, cy: float, hx: float, hy: float, round_: float = 0.0) -> Shape:
    def distance(x: Array, y: Array) -> Array:
        qx, qy = np.abs(x - cx) - (hx - round_), np.abs(y - cy) - (hy - round_)
        ox, oy = np.maximum(qx, 0), np.maximum(qy, 0)
        return np.sqrt(ox * ox + oy * oy) + np.minimum(np.maximum(qx, qy), 0) - round_

    return Shape(distance, (cx - hx, cy - hy, cx + hx, cy + hy))


def capsule(ax: float, ay: float, bx: float, by: float, ra: float, rb: float | None = None) -> Shape:
    """A stroke from a to b whose radius goes from ra to rb."""
    ex, ey = bx - ax, by - ay
    rb = ra if rb is None else rb
    grow, length = rb - ra, ex * ex + ey * ey

    def distance(x: Array, y: Array) -> Array:
        px, py = x - ax, y - ay
        t = np.clip(px * (ex / length) + py * (ey / length), 0, 1)
        qx, qy = px - ex * t, py - ey * t
        return np.sqrt(qx * qx + qy * qy) - (ra + grow * t)

    return Shape(distance, around((ax - ra, ay - ra, ax + ra, ay + ra), (bx - rb, by - rb, bx + rb, by + rb)))


def stroke(*points: tuple[float, float], r: float, r_end: float | None = None) -> Shape:
    """A polyline of capsules whose radius goes from r to r_end."""
    last = len(points) - 1
    radii = [r + ((r if r_end is None else r_end) - r) * i / last for i in range(last + 1)]
    return union(*(capsule(*points[i], *points[i + 1], radii[i], radii[i + 1]) for i in range(last)))


def arc(cx: float, cy: float, r: float, start: float, stop: float, width: float, steps: int = 6) -> Shape:
    """A bow of a circle from angle start to stop (turns, 0 to the right, 0.25 down), as a stroke."""
    angles = [2 * pi * (start + (stop - start) * i / steps) for i in range(steps + 1)]
    return stroke(*((cx + r * cos(a), cy + r * sin(a)) for a in angles), r=width)


def polygon(*points: tuple[float, float], round_: float = 0.0) -> Shape:
    """A closed polygon, grown by `round_` (which rounds its corners)."""

    def distance(x: Array, y: Array) -> Array:
        nearest, sign = np.full_like(x, 1e3), np.ones(x.shape, bool)
        for (ax, ay), (bx, by) in zip(points, points[-1:] + points[:-1], strict=True):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            length = ex * ex + ey * ey
            t = np.clip(px * (ex / length) + py * (ey / length), 0, 1)
            qx, qy = px - ex * t, py - ey * t
            nearest = np.minimum(nearest, qx * qx + qy * qy)
            sign ^= ((y >= ay) != (y >= by)) & ((ex * py > ey * px) == (ey > 0))
        return np.where(sign, np.float32(1), np.float32(-1)) * np.sqrt(nearest) - round_

    xs, ys = zip(*points, strict=True)
    return Shape(distance, (min(xs) - round_, min(ys) - round_, max(xs) + round_, max(ys) + round_))


def star(cx: float, cy: float, r: float, inner: float = 0.45, points: int = 5, round_: float = 0.0) -> Shape:
    corners = []
    for i in range(2 * points):
        radius, a = r * (inner if i % 2 else 1.0), pi * i / points
        corners.append((cx + radius * sin(a), cy - radius * cos(a)))
    return polygon(*corners, round_=round_)


def heart(cx: float, cy: float, r: float) -> Shape:
    """A heart about 2 r wide."""
    k = r / 1.1
    tip = polygon(
        (cx - 0.92 * k, cy + 0.08 * k), (cx, cy - 0.3 * k), (cx + 0.92 * k, cy + 0.08 * k), (cx, cy + k)
    )
    return union(
        circle(cx - 0.52 * k, cy - 0.3 * k, 0.56 * k), circle(cx + 0.52 * k, cy - 0.3 * k, 0.56 * k), tip
    )


def ring(cx: float, cy: float, rx: float, ry: float, width: float) -> Shape:
    outline = ellipse(cx, cy, rx, ry)
    return Shape(
        lambda x, y: np.abs(outline(x, y)) - width,
        (cx - rx - width, cy - ry - width, cx + rx + width, cy + ry + width),
    )


def half_plane(nx: float, ny: float, offset: float) -> Shape:
    """Everything with nx*x + ny*y above offset."""
    return Shape(lambda x, y: offset - (nx * x + ny * y))


def union(*shapes: Shape) -> Shape:
    def distance(x: Array, y: Array) -> Array:
        d = shapes[0](x, y)
        for shape in shapes[1:]:
            d = np.minimum(d, shape(x, y))
        return d

    return Shape(distance, around(*(s.box for s in shapes)))


def intersect(*shapes: Shape) -> Shape:
    left, top, right, bottom = zip(*(s.box for s in shapes), strict=True)
    return Shape(
        lambda x, y: np.maximum.reduce([s(x, y) for s in shapes]),
        (max(left), max(top), min(right), min(bottom)),
    )


def subtract(shape: Shape, cut: Shape) -> Shape:
    return Shape(lambda x, y: np.maximum(shape(x, y), -cut(x, y)), shape.box)


def blend(a: Shape, b: Shape, k: float) -> Shape:
    """Smooth union: the joint is filled over a width of k."""

    def distance(x: Array, y: Array) -> Array:
        da, db = a(x, y), b(x, y)
        gap = np.maximum(k - np.abs(da - db), 0)
        return np.minimum(da, db) - gap * gap / (4 * k)

    return Shape(distance, around(a.box, b.box))


def mirrored(shape: Shape) -> Shape:
    """The shape and its mirror image about x = 0, for the price of one."""
    _, top, right, bottom = shape.box
    return Shape(lambda x, y: shape(np.abs(x), y), (-right, top, right, bottom))


def spiral(cx: float, cy: float, pitch: float, width: float, reach: float) -> Shape:
    """A spiral line of the given half-width, `pitch` between its turns, out to `reach`."""

    def distance(x: Array, y: Array) -> Array:
        u, v = x - cx, y - cy
        r = np.sqrt(u * u + v * v)
        turn = (r / pitch - np.arctan2(v, u) / (2 * pi)) % 1
        return np.maximum(np.abs(turn - 0.5) * pitch - width, r - reach)

    return Shape(distance, (cx - reach, cy - reach, cx + reach, cy + reach))


def moved(shape: Shape, dx: float, dy: float, scale: float = 1.0, turn: float = 0.0) -> Shape:
    """The shape scaled and turned (radians) about the origin, then moved."""
    c, s = cos(turn), sin(turn)
    left, top, right, bottom = shape.box
    corners = [(c * x - s * y, s * x + c * y) for x in (left, right) for y in (top, bottom)]
    xs, ys = [x * scale + dx for x, _ in corners], [y * scale + dy for _, y in corners]

    def distance(x: Array, y: Array) -> Array:
        u, v = (x - dx) / scale, (y - dy) / scale
        return shape(c * u + s * v, c * v - s * u) * scale

    return Shape(distance, (min(xs), min(ys), max(xs), max(ys)))
