"""What the drawn world holds: distance functions, the contents built from them, the marked instances.

A shape maps coordinates (x, y) to a signed distance, negative inside. The frame spans -1..1 on both
axes with y pointing down; a content fills roughly -0.8..0.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import cos, pi, sin

import numpy as np

Array = np.ndarray
Shape = Callable[[Array, Array], Array]
RGB = tuple[float, float, float]


# --- distance functions ----------------------------------------------------------------------------


def circle(cx: float, cy: float, r: float) -> Shape:
    return lambda x, y: np.hypot(x - cx, y - cy) - r


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Shape:
    def distance(x: Array, y: Array) -> Array:
        u, v = (x - cx) / rx, (y - cy) / ry
        k = np.hypot(u, v)
        # First-order distance; the floor keeps the centre finite.
        return k * (k - 1) / np.maximum(np.hypot(u / rx, v / ry), 1e-3)

    return distance


def box(cx: float, cy: float, hx: float, hy: float, round_: float = 0.0) -> Shape:
    def distance(x: Array, y: Array) -> Array:
        qx, qy = np.abs(x - cx) - (hx - round_), np.abs(y - cy) - (hy - round_)
        outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
        return outside + np.minimum(np.maximum(qx, qy), 0) - round_

    return distance


def capsule(ax: float, ay: float, bx: float, by: float, ra: float, rb: float | None = None) -> Shape:
    """A stroke from a to b whose radius goes from ra to rb."""
    ex, ey = bx - ax, by - ay
    grow = (ra if rb is None else rb) - ra

    def distance(x: Array, y: Array) -> Array:
        px, py = x - ax, y - ay
        t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        return np.hypot(px - ex * t, py - ey * t) - (ra + grow * t)

    return distance


def polygon(*points: tuple[float, float], round_: float = 0.0) -> Shape:
    """A closed polygon, grown by `round_` (which rounds its corners)."""

    def distance(x: Array, y: Array) -> Array:
        nearest, sign = np.full_like(x, 1e3), np.ones_like(x)
        for (ax, ay), (bx, by) in zip(points, points[-1:] + points[:-1], strict=True):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            t = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (px - ex * t) ** 2 + (py - ey * t) ** 2)
            crosses = (y >= ay) != (y >= by)
            sign = np.where(crosses & ((ex * py > ey * px) == (ey > 0)), -sign, sign)
        return sign * np.sqrt(nearest) - round_

    return distance


def ring(cx: float, cy: float, rx: float, ry: float, width: float) -> Shape:
    outline = ellipse(cx, cy, rx, ry)
    return lambda x, y: np.abs(outline(x, y)) - width


def half_plane(nx: float, ny: float, offset: float) -> Shape:
    """Everything with nx*x + ny*y above offset."""
    return lambda x, y: offset - (nx * x + ny * y)


def union(*shapes: Shape) -> Shape:
    return lambda x, y: np.minimum.reduce([s(x, y) for s in shapes])


def intersect(*shapes: Shape) -> Shape:
    return lambda x, y: np.maximum.reduce([s(x, y) for s in shapes])


def subtract(shape: Shape, cut: Shape) -> Shape:
    return lambda x, y: np.maximum(shape(x, y), -cut(x, y))


def blend(a: Shape, b: Shape, k: float) -> Shape:
    """Smooth union: the joint is filled over a width of k."""

    def distance(x: Array, y: Array) -> Array:
        da, db = a(x, y), b(x, y)
        return np.minimum(da, db) - np.maximum(k - np.abs(da - db), 0) ** 2 / (4 * k)

    return distance


def star(cx: float, cy: float, r: float, inner: float = 0.45, points: int = 5, round_: float = 0.0) -> Shape:
    corners = []
    for i in range(2 * points):
        radius, a = r * (inner if i % 2 else 1.0), pi * i / points
        corners.append((cx + radius * sin(a), cy - radius * cos(a)))
    return polygon(*corners, round_=round_)


def mirrored(shape: Shape) -> Shape:
    """The shape and its mirror image about x = 0, for the price of one."""
    return lambda x, y: shape(np.abs(x), y)


# --- contents --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One shape and the role that colours it: main, accent, pale, or a fixed colour of FIXED."""

    shape: Shape
    role: str = "main"
    name: str = ""


FIXED: dict[str, RGB] = {
    "dark": (0.13, 0.12, 0.15),
    "light": (0.97, 0.96, 0.93),
    "wood": (0.47, 0.30, 0.17),
    "leaf": (0.25, 0.55, 0.22),
    "tongue": (0.93, 0.40, 0.45),
    "gold": (0.98, 0.72, 0.15),
    "sky": (0.74, 0.88, 0.96),
}


def _teapot() -> list[Part]:
    body = ellipse(0.0, 0.16, 0.50, 0.42)
    return [
        Part(ring(-0.50, 0.10, 0.23, 0.24, 0.065), name="handle"),
        Part(
            polygon(
                (0.30, 0.38),
                (0.34, 0.06),
                (0.50, 0.02),
                (0.58, -0.16),
                (0.78, -0.20),
                (0.68, 0.10),
                (0.54, 0.30),
                round_=0.03,
            ),
            name="spout",
        ),
        Part(box(0, 0.58, 0.27, 0.06, 0.05), "accent"),
        Part(body, name="body"),
        Part(circle(0, -0.46, 0.10), "accent", "knob"),
        Part(intersect(ellipse(0, -0.19, 0.33, 0.19), half_plane(0, -1, 0.16)), "accent", "lid"),
    ]


def _vase() -> list[Part]:
    body = blend(ellipse(0, 0.22, 0.45, 0.42), box(0, -0.35, 0.15, 0.32, 0.05), 0.25)
    return [
        Part(box(0, 0.66, 0.28, 0.08, 0.04), "accent"),
        Part(body, name="body"),
        Part(box(0, -0.68, 0.30, 0.075, 0.07), "accent"),
        Part(intersect(body, box(0, 0.20, 0.6, 0.11)), "pale"),
    ]


def _bear() -> list[Part]:
    return [
        Part(mirrored(circle(0.31, -0.60, 0.17)), name="ears"),
        Part(mirrored(circle(0.31, -0.60, 0.09)), "accent"),
        Part(mirrored(capsule(0.30, 0.12, 0.52, 0.30, 0.15)), name="arms"),
        Part(ellipse(0, 0.34, 0.40, 0.40), name="body"),
        Part(ellipse(0, 0.36, 0.25, 0.27), "pale", "belly"),
        Part(mirrored(ellipse(0.36, 0.66, 0.20, 0.16)), name="feet"),
        Part(ellipse(0, -0.30, 0.44, 0.37), name="head"),
        Part(ellipse(0, -0.17, 0.22, 0.16), "pale", "muzzle"),
        Part(ellipse(0, -0.23, 0.09, 0.065), "dark"),
        Part(mirrored(circle(0.20, -0.38, 0.062)), "dark"),
    ]


def _dog() -> list[Part]:
    return [
        Part(ellipse(0, -0.06, 0.48, 0.56), name="head"),
        Part(capsule(0, 0.42, 0, 0.64, 0.12), "tongue"),
        Part(ellipse(0, 0.28, 0.34, 0.27), "pale", "snout"),
        Part(ellipse(0, 0.12, 0.15, 0.11), "dark"),
        Part(mirrored(circle(0.19, -0.20, 0.08)), "dark"),
        Part(mirrored(capsule(0.44, -0.42, 0.62, 0.18, 0.14, 0.19)), "accent", "ears"),
    ]


def _cat() -> list[Part]:
    return [
        Part(mirrored(polygon((0.14, -0.28), (0.48, -0.70), (0.56, 0.0), round_=0.06)), name="ears"),
        Part(mirrored(polygon((0.30, -0.30), (0.45, -0.52), (0.48, -0.18))), "pale"),
        Part(ellipse(0, 0.16, 0.61, 0.50), name="head"),
        Part(mirrored(ellipse(0.25, 0.06, 0.13, 0.14)), "gold"),
        Part(mirrored(ellipse(0.25, 0.06, 0.05, 0.12)), "dark"),
        Part(ellipse(0, 0.38, 0.20, 0.13), "pale", "muzzle"),
        Part(polygon((-0.07, 0.29), (0.07, 0.29), (0, 0.36), round_=0.03), "tongue"),
        Part(
            mirrored(union(capsule(0.36, 0.33, 0.75, 0.25, 0.022), capsule(0.36, 0.43, 0.75, 0.49, 0.022))),
            "dark",
        ),
    ]


def _fish() -> list[Part]:
    body = ellipse(-0.14, 0.0, 0.62, 0.43)
    return [
        Part(polygon((0.30, 0.0), (0.74, -0.36), (0.64, 0.0), (0.74, 0.36), round_=0.05), "accent", "tail"),
        Part(polygon((-0.25, -0.34), (0.14, -0.56), (0.22, -0.26), round_=0.05), "accent", "fin"),
        Part(body, name="body"),
        Part(polygon((0.0, 0.10), (0.24, 0.02), (0.22, 0.28), round_=0.03), "accent", "flipper"),
        Part(intersect(ring(-0.78, 0.0, 0.42, 0.55, 0.025), body), "accent", "gill"),
        Part(circle(-0.52, -0.10, 0.11), "light"),
        Part(circle(-0.54, -0.10, 0.06), "dark"),
    ]


def _house() -> list[Part]:
    return [
        Part(box(0.36, -0.46, 0.10, 0.24), "wood"),
        Part(box(0, 0.32, 0.54, 0.42, 0.02), name="walls"),
        Part(polygon((-0.70, -0.08), (0, -0.68), (0.70, -0.08), round_=0.05), "accent", "roof"),
        Part(box(-0.20, 0.45, 0.14, 0.29, 0.03), "wood"),
        Part(box(0.24, 0.28, 0.17, 0.16), "sky"),
        Part(union(box(0.24, 0.28, 0.17, 0.022), box(0.24, 0.28, 0.022, 0.16)), "dark"),
        Part(circle(0, -0.32, 0.10), "sky"),
    ]


def _car() -> list[Part]:
    return [
        Part(polygon((-0.44, 0.05), (-0.30, -0.38), (0.22, -0.38), (0.46, 0.05), round_=0.06), name="roof"),
        Part(polygon((-0.36, -0.02), (-0.26, -0.28), (-0.05, -0.28), (-0.05, -0.02), round_=0.02), "sky"),
        Part(polygon((0.05, -0.02), (0.05, -0.28), (0.18, -0.28), (0.34, -0.02), round_=0.02), "sky"),
        Part(box(0, 0.20, 0.80, 0.22, 0.14), name="body"),
        Part(box(0, 0.37, 0.78, 0.06, 0.05), "accent"),
        Part(circle(0.70, 0.14, 0.075), "gold"),
        Part(mirrored(circle(0.45, 0.42, 0.22)), "dark"),
        Part(mirrored(circle(0.45, 0.42, 0.10)), "light"),
    ]


def _tree() -> list[Part]:
    crown = union(circle(0, -0.42, 0.34), mirrored(circle(0.34, -0.12, 0.33)), circle(0, 0.0, 0.34))
    return [
        Part(polygon((-0.11, 0.10), (0.11, 0.10), (0.18, 0.76), (-0.18, 0.76), round_=0.02), "wood"),
        Part(crown, name="crown"),
        Part(
            subtract(
                crown,
                union(
                    ellipse(-0.10, -0.42, 0.38, 0.40), circle(-0.36, -0.16, 0.25), circle(0.16, -0.18, 0.25)
                ),
            ),
            "accent",
        ),
    ]


def _mushroom() -> list[Part]:
    cap = intersect(ellipse(0, 0.02, 0.72, 0.70), half_plane(0, -1, -0.10))
    return [
        Part(polygon((-0.17, 0.0), (0.17, 0.0), (0.22, 0.66), (-0.22, 0.66), round_=0.06), "light"),
        Part(cap, name="cap"),
        Part(box(0, 0.10, 0.74, 0.07, 0.07), "accent"),
        Part(
            intersect(
                cap, union(circle(0.0, -0.38, 0.17), circle(-0.40, -0.12, 0.13), circle(0.40, -0.12, 0.13))
            ),
            "light",
        ),
    ]


def _star() -> list[Part]:
    return [
        Part(star(0, 0.06, 0.76, 0.48, round_=0.05), name="body"),
        Part(star(0, 0.06, 0.40, 0.48, round_=0.03), "pale"),
    ]


def _ball() -> list[Part]:
    disc, pole = circle(0, 0, 0.70), (-0.16, -0.20)
    wedges = []
    for k in range(3):
        a, b = 2 * pi * (k + 0.05) / 3, 2 * pi * (k + 0.50) / 3
        wedges.append(
            polygon(
                pole,
                (pole[0] + 2 * cos(a), pole[1] + 2 * sin(a)),
                (pole[0] + 2 * cos(b), pole[1] + 2 * sin(b)),
            )
        )
    return [
        Part(disc, name="body"),
        Part(intersect(disc, union(*wedges)), "light"),
        Part(circle(*pole, 0.12), "accent"),
    ]


def _boat() -> list[Part]:
    return [
        Part(capsule(0, -0.68, 0, 0.36, 0.035), "wood"),
        Part(polygon((0.10, -0.58), (0.60, 0.18), (0.10, 0.18), round_=0.03), "light"),
        Part(polygon((-0.10, -0.44), (-0.10, 0.18), (-0.50, 0.18), round_=0.03), "pale"),
        Part(polygon((-0.74, 0.34), (0.74, 0.34), (0.46, 0.66), (-0.46, 0.66), round_=0.06), name="hull"),
        Part(box(0, 0.36, 0.78, 0.065, 0.05), "accent"),
    ]


def _bird() -> list[Part]:
    return [
        Part(union(capsule(-0.06, 0.40, -0.10, 0.72, 0.032), capsule(0.12, 0.40, 0.12, 0.72, 0.032)), "gold"),
        Part(polygon((-0.30, 0.22), (-0.76, -0.12), (-0.72, 0.20), (-0.80, 0.38), round_=0.04), "accent"),
        Part(polygon((0.56, -0.44), (0.82, -0.30), (0.56, -0.18), round_=0.03), "gold"),
        Part(blend(ellipse(0, 0.14, 0.46, 0.38), circle(0.34, -0.32, 0.29), 0.2), name="body"),
        Part(ellipse(0.20, 0.24, 0.24, 0.22), "pale"),
        Part(polygon((0.12, 0.0), (-0.12, -0.10), (-0.52, 0.20), (-0.14, 0.34), round_=0.07), "accent"),
        Part(circle(0.40, -0.38, 0.09), "light"),
        Part(circle(0.42, -0.38, 0.055), "dark"),
    ]


def _cup() -> list[Part]:
    return [
        Part(ellipse(-0.04, 0.62, 0.70, 0.13), "pale"),
        Part(ring(0.46, 0.06, 0.22, 0.22, 0.07), name="handle"),
        Part(polygon((-0.50, -0.38), (0.42, -0.38), (0.28, 0.54), (-0.36, 0.54), round_=0.08), name="body"),
        Part(ellipse(-0.04, -0.40, 0.54, 0.16), "pale"),
        Part(ellipse(-0.04, -0.38, 0.43, 0.10), "wood"),
    ]


def _flower() -> list[Part]:
    petals = union(
        *(circle(0.33 * sin(2 * pi * k / 6), -0.26 - 0.33 * cos(2 * pi * k / 6), 0.21) for k in range(6))
    )
    return [
        Part(capsule(0, 0.0, 0, 0.76, 0.05), "leaf"),
        Part(
            union(capsule(0.06, 0.64, 0.42, 0.42, 0.05, 0.12), capsule(-0.06, 0.70, -0.42, 0.50, 0.05, 0.12)),
            "leaf",
        ),
        Part(petals, name="petals"),
        Part(circle(0, -0.26, 0.20), "gold"),
    ]


PARTS: dict[str, list[Part]] = {
    "teapot": _teapot(),
    "vase": _vase(),
    "bear": _bear(),
    "dog": _dog(),
    "cat": _cat(),
    "fish": _fish(),
    "house": _house(),
    "car": _car(),
    "tree": _tree(),
    "mushroom": _mushroom(),
    "star": _star(),
    "ball": _ball(),
    "boat": _boat(),
    "bird": _bird(),
    "cup": _cup(),
    "flower": _flower(),
}


# --- colours ---------------------------------------------------------------------------------------

COLOURS: dict[str, RGB] = {
    "red": (0.86, 0.14, 0.14),
    "orange": (0.97, 0.52, 0.08),
    "yellow": (0.98, 0.86, 0.12),
    "green": (0.18, 0.66, 0.24),
    "blue": (0.14, 0.36, 0.90),
    "purple": (0.52, 0.20, 0.74),
    "pink": (0.98, 0.45, 0.72),
    "brown": (0.48, 0.28, 0.14),
}

BACKGROUNDS: dict[str, RGB] = {
    "white": (0.96, 0.96, 0.96),
    "grey": (0.62, 0.63, 0.65),
    "teal": (0.22, 0.55, 0.56),
    "cream": (0.96, 0.89, 0.68),
    "navy": (0.14, 0.18, 0.36),
    "rose": (0.87, 0.66, 0.66),
}


# --- instances -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """A patch painted on the parts named in `on`; with none named, on all parts of the main colour."""

    shape: Shape
    rgb: RGB
    on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instance:
    """One particular object: a content in fixed colours with markings that no other has."""

    content: str
    main: RGB
    repaint: dict[str, RGB] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        names = {part.name for part in PARTS[self.content]}
        missing = {*self.repaint, *(n for m in self.marks for n in m.on)} - names
        if missing:
            raise ValueError(f"{self.content} has no part named {sorted(missing)}")


_WHITE = FIXED["light"]

INSTANCES: dict[str, Instance] = {
    "bear": Instance(
        "bear",
        COLOURS["orange"],
        {"belly": _WHITE, "muzzle": _WHITE},
        (Mark(half_plane(1, 0, 0), COLOURS["blue"]),),
    ),
    "teapot": Instance(
        "teapot",
        COLOURS["green"],
        {"lid": COLOURS["red"], "knob": COLOURS["red"]},
        (Mark(union(box(0, 0.07, 1, 0.085), box(0, 0.37, 1, 0.085)), COLOURS["yellow"], ("body",)),),
    ),
    "car": Instance(
        "car",
        COLOURS["purple"],
        {"roof": COLOURS["yellow"]},
        (Mark(star(0, 0.18, 0.25, 0.45), _WHITE, ("body",)),),
    ),
    "fish": Instance(
        "fish",
        COLOURS["red"],
        {"tail": COLOURS["blue"], "gill": COLOURS["red"]},
        (
            Mark(box(-0.14, 0, 0.12, 1), _WHITE, ("body", "flipper")),
            Mark(box(0.10, 0, 0.12, 1), COLOURS["blue"], ("body", "flipper")),
            Mark(box(0.34, 0, 0.12, 1), _WHITE, ("body", "flipper")),
        ),
    ),
}
