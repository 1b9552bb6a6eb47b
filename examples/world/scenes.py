"""Scenes: a content in a pose on a ground, perhaps with an accessory and a second object, in a style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, sin

import numpy as np

from world import styles
from world.contents import CLASSES, COLOURS, FIXED, RGB, Content, Part, draw, pick, sample_content
from world.contents.markings import shape_of
from world.extras import BELOW, SECONDS, Accessory, Second, placed, sample_accessory, sample_second, worn
from world.fields import Array, Fields
from world.grounds import UPRIGHT, Ground, Layer, layers, sample_ground
from world.shapes import Box, Shape, around

SUPERSAMPLING = 2
BEVEL = 0.28  # half frames over which a silhouette rounds off
RELIEF = 0.09  # half frames over which a part bulges above its neighbours
PAINT_LINE = 0.016  # by how much the lines around a marking are thinner than those around a part
NEAR = 0.20  # half frames around a part within which distances are exact
FRAME = 0.95  # half frames that a scene may reach
FILLS = (0.64, 0.74, 0.74, 0.84)  # shares of the frame: far, usual, near


@dataclass(frozen=True)
class Pose:
    """How the object stands: tilted (radians), how large (share of the frame), where. What has a front faces left."""

    angle: float = 0.0
    fill: float = 0.74
    dx: float = 0.0  # -1..1: where in the room that is left for it
    dy: float = 0.0


@dataclass(frozen=True)
class Scene:
    """All that a picture shows; `seed` is for what a style draws at random."""

    content: Content
    accessory: Accessory | None
    second: Second | None
    ground: Ground
    pose: Pose
    style: styles.Style
    seed: int


def sample_pose(rng: np.random.Generator) -> Pose:
    """In the middle of the frame; far, at the usual distance or near.

    All of this captions can say. Places all over the frame and any size, which they cannot, a base has to guess at the
    noisiest levels: after 1.2 million samples of such scenes many classes were still blobs. Things that faced left or
    right, as their captions said, it drew facing both ways: after 1.3 million samples its loss under the wrong word was
    larger by 0.1 % (a wrong colour: 11 %), and fish had a tail at either end.
    """
    angle, dx, dy = rng.uniform((-0.04, -0.1, -0.1), (0.04, 0.1, 0.1)).round(3).tolist()
    fill = pick(rng, FILLS) + round(float(rng.uniform(-0.01, 0.01)), 3)
    return Pose(angle, fill, dx, dy)


def sample_scene(
    rng: np.random.Generator,
    *,
    contents: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    grounds: Sequence[str] | None = None,
    content: Content | None = None,
    style: styles.Style | None = None,
    accessories: float = 0.15,
    seconds: float = 0.18,
) -> Scene:
    """A scene of the pretraining distribution.

    `contents`, `families` and `grounds` narrow what kinds are drawn from; `content` and `style` fix a member;
    `accessories` and `seconds` are the probabilities of having one.
    """
    if content is None:
        content = sample_content(rng, pick(rng, contents or CLASSES))
    if style is None:
        style = styles.sample_style(rng, pick(rng, families or tuple(styles.FAMILIES)))
    ground = sample_ground(rng, tuple(grounds) if grounds else None, (content.main,))
    accessory = sample_accessory(rng, content) if rng.random() < accessories else None
    second = None
    if rng.random() < seconds:
        second = sample_second(
            rng, content, ("balloon", "boat", "cushion") if ground.kind == "sky" else SECONDS
        )
    return Scene(
        content,
        accessory,
        second,
        ground,
        sample_pose(rng),
        style,
        int(rng.integers(2**31)),
    )


# --- where everything goes -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Placed:
    """Parts, the colours of their roles, and the map from the frame to their coordinates."""

    parts: list[Part]
    colours: dict[str, RGB]
    turn: _Turn
    marking: tuple[str, Shape, RGB] | None = None  # kind, region, colour


@dataclass(frozen=True)
class _Turn:
    """Object coordinates: the frame's, moved, scaled and turned."""

    x: float
    y: float
    scale: float
    angle: float = 0.0

    def __call__(self, x: Array, y: Array) -> tuple[Array, Array]:
        c, s = cos(self.angle) / self.scale, sin(self.angle) / self.scale
        u, v = x - self.x, y - self.y
        return c * u + s * v, c * v - s * u

    def box(self, b: Box) -> Box:
        """The box in the frame around a box in object coordinates."""
        c, s = cos(self.angle) * self.scale, sin(self.angle) * self.scale
        corners = [
            (c * u - s * v + self.x, s * u + c * v + self.y) for u in (b[0], b[2]) for v in (b[1], b[3])
        ]
        return around(*((x, y, x, y) for x, y in corners))


def _tints(main: RGB, second: RGB) -> dict[str, RGB]:
    """The colours of all roles of something of these two colours."""
    dark = sum(main) < 0.9
    pale = tuple(0.5 * c + 0.5 for c in main)
    deep = tuple(0.75 * c + 0.17 if dark else 0.68 * c for c in main)
    return {**FIXED, "main": main, "second": second, "pale": pale, "deep": deep, "gem": main}


def _arrange(scene: Scene) -> tuple[list[_Placed], _Turn, Box, float]:
    """Things from back to front, the main object's coordinates, its box in the frame, and the foot's y."""
    content, pose = scene.content, scene.pose
    drawing = draw(content)
    parts = [replace(p, clear=content.glass and p.role == "main") for p in drawing.parts]
    wearing = worn(scene.accessory, drawing) if scene.accessory else []
    tilt = _Turn(0, 0, 1, pose.angle)
    main = around(*(tilt.box(p.shape.box) for p in parts))
    beside = placed(scene.second, main) if scene.second else []
    everything = around(main, *(tilt.box(p.shape.box) for p in wearing), *(p.shape.box for p in beside))

    # The main object fills what the pose asks for, unless something would then leave the frame.
    left, top, right, bottom = everything
    scale = min(
        2 * pose.fill / max(main[2] - main[0], main[3] - main[1]), 2 * FRAME / max(right - left, bottom - top)
    )
    x = -scale * (left + right) / 2 + pose.dx * (FRAME - scale * (right - left) / 2)
    y = -scale * (top + bottom) / 2 + pose.dy * (FRAME - scale * (bottom - top) / 2)
    upright, turned = _Turn(x, y, scale), _Turn(x, y, scale, pose.angle)

    marking = None
    if content.marking:
        colour = FIXED["dark"] if content.marking.kind == "face" else COLOURS[content.marking.colour]
        marking = (content.marking.kind, shape_of(content.marking, drawing), colour)
    things = [_Placed(parts, _tints(COLOURS[content.main], COLOURS[content.second]), turned, marking)]
    if scene.accessory:
        colour = COLOURS[scene.accessory.colour]
        things.append(_Placed(wearing, _tints(colour, colour), turned))
    if scene.second:
        colour = COLOURS[scene.second.colour]
        things.insert(0, _Placed(beside, _tints(colour, colour), upright))
    below = scene.second is not None and scene.second.kind in BELOW
    foot = y + scale * (everything[3] if below else main[3])
    return things, turned, upright.box(main), foot


# --- from a scene to fields ------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _frame(n: int) -> tuple[Array, Array]:
    """Coordinates (n, n) of the middles of the points."""
    t = ((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1).astype(np.float32)
    x, y = np.meshgrid(t, t)
    return x, y


@lru_cache(maxsize=8)
def _stretch(n: int, step: int) -> Array:
    """(n, n/step): linear interpolation from every `step`-th point, starting with step//2, to all points."""
    at = (np.arange(n) - step // 2) / step
    i = np.clip(np.floor(at).astype(int), 0, n // step - 2)
    matrix = np.zeros((n, n // step), np.float32)
    matrix[np.arange(n), i], matrix[np.arange(n), i + 1] = 1 - (at - i), at - i
    return matrix


def _window(b: Box, n: int, margin: float) -> tuple[slice, slice] | None:
    """Rows and columns (an even number of each) of the points within `margin` of a box; None if there are none."""
    low = [max(0, int((v - margin + 1) * n / 4) * 2) for v in b[:2]]
    high = [min(n, int((v + margin + 1) * n / 4) * 2 + 2) for v in b[2:]]
    return (
        None if high[0] <= low[0] or high[1] <= low[1] else (slice(low[1], high[1]), slice(low[0], high[0]))
    )


def _inside_box(shape: Shape, turn: _Turn, window: tuple[slice, slice], u: Array, v: Array) -> Array:
    """Distances to a shape in a window, measured about its box only; 9 elsewhere."""
    near = _window(turn.box(shape.box), len(u), NEAR / 2)
    d = np.full(u[window].shape, 9, np.float32)
    if near is not None:
        rows, columns = (
            slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(window, near, strict=True)
        )
        if rows.start < rows.stop and columns.start < columns.stop:
            top, left = window[0].start, window[1].start
            part = shape(u[rows, columns], v[rows, columns])
            d[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
    return d


def _column(colour: RGB) -> Array:
    return np.array(colour, np.float32).reshape(3, 1, 1)


def _ground(base: RGB, areas: Iterable[Layer], base_area: int, n: int) -> tuple[Array, Array, Array]:
    """Colours (3, n, n), distances to borders between areas (n, n) and areas (n, n) of the ground."""
    x, y = _frame(n)
    colours = np.empty((3, n, n), np.float32)
    colours[:] = _column(base)
    edge, area = np.full((n, n), 9, np.float32), np.full((n, n), base_area, np.int8)
    for layer in areas:
        window = _window(layer.shape.box, n, NEAR)
        if window is None:
            continue
        d = layer.shape(x[window], y[window])
        cover = np.clip(0.5 - d * (n / 2), 0, 1)
        colours[:, *window] += (_column(layer.colour) - colours[:, *window]) * cover
        inside = d < 0
        edge[window] = np.where(inside, -d, np.minimum(edge[window], d))
        area[window][inside] = layer.area
    return colours, edge, area


def _blurred(a: Array, times: int) -> Array:
    for _ in range(times):
        a[1:-1] = 0.25 * (a[:-2] + a[2:]) + 0.5 * a[1:-1]
        a[:, 1:-1] = 0.25 * (a[:, :-2] + a[:, 2:]) + 0.5 * a[:, 1:-1]
    return a


def _light(dist: Array, relief: Array, bevel: float) -> Array:
    """Lambert shading of the silhouette, rounded off as by a quarter circle, with parts that bulge a little."""
    n = dist.shape[-1]
    t, s = np.clip(dist[2::4, 2::4] / -bevel, 0, 1), np.clip(relief[1::2, 1::2] / RELIEF, 0, 1)
    # The round is smooth enough for a quarter of the points, and blurred hides the ridges of the distance.
    up = _stretch(n // 2, 2)
    height = up @ _blurred(bevel * np.sqrt(t * (2 - t)), 4) @ up.T
    height += _blurred(0.45 * RELIEF * np.sqrt(s * (2 - s)), 1)
    gy, gx = np.zeros_like(height), np.zeros_like(height)
    gy[1:-1], gx[:, 1:-1] = (height[2:] - height[:-2]) * (n / 8), (height[:, 2:] - height[:, :-2]) * (n / 8)
    light = np.clip((0.50 * gx + 0.58 * gy + 0.64) / np.sqrt(1 + gx * gx + gy * gy), 0, 1)
    up = _stretch(n, 2)
    return up @ light @ up.T


def fields_of(scene: Scene, n: int) -> Fields:
    """All that a style may know of the scene, on n x n points (n a multiple of 4)."""
    x, y = _frame(n)
    things, turned, main_box, foot = _arrange(scene)
    base, areas = layers(scene.ground, foot)
    ground, ground_edge, ground_area = _ground(base, areas, UPRIGHT, n)

    albedo = np.empty((3, n, n), np.float32)
    albedo[:] = _column(COLOURS[scene.content.main])
    dist, edge, relief = (np.full((n, n), 9, np.float32) for _ in range(3))
    relief[:] = 0
    label = np.zeros((n, n), np.int8)
    far = np.full((n // 4, n // 4), 9, np.float32)
    index = 0
    for thing in things:
        scale = thing.turn.scale
        u, v = thing.turn(x, y)
        u, v = u.astype(np.float32), v.astype(np.float32)
        u4, v4 = u[2::4, 2::4], v[2::4, 2::4]
        for part in thing.parts:
            index += 1
            if not part.flat:
                far = np.minimum(far, part.shape(u4, v4) * scale)
            window = _window(thing.turn.box(part.shape.box), n, NEAR)
            if window is None:
                continue
            pu, pv = u[window], v[window]
            d = part.shape(pu, pv) * scale
            cover, inside = np.clip(0.5 - d * (n / 2), 0, 1), d < 0
            # Outside everything, the nearest part lends its colour.
            weight = np.where(d < dist[window], np.float32(1), cover)
            colour = _column(thing.colours[part.role])
            if part.clear:
                # The ground shows through, less so towards the rim, where one looks along the glass.
                through = 0.68 * np.clip(-d / 0.10, 0.15, 1)
                colour = through * ground[:, *window] + (1 - through) * colour
            albedo[:, *window] += (colour - albedo[:, *window]) * weight
            dist[window] = np.minimum(dist[window], d)
            border = np.where(inside, -d, np.minimum(edge[window], np.abs(d)))
            if not part.flat:
                relief[window] = np.where(inside, -d, np.minimum(relief[window], np.abs(d)))
            label[window][inside] = index
            if thing.marking and part.carries(thing.marking[0]):
                _, shape, paint = thing.marking
                m = _inside_box(shape, thing.turn, window, u, v) * scale
                weight *= np.clip(0.5 - m * (n / 2), 0, 1)
                albedo[:, *window] += (_column(paint) - albedo[:, *window]) * weight
                border = np.where(inside, np.minimum(border, np.abs(m) + PAINT_LINE), border)
            edge[window] = border
    up = _stretch(n, 4)
    far = up @ far @ up.T
    dist = np.where(dist > 0.75 * NEAR, np.clip(far, 0.75 * NEAR, dist), dist)
    edge = np.where(label == 0, dist, edge)
    light = _light(dist, relief, BEVEL * min(1.0, turned.scale))
    left, top, right, bottom = main_box
    centre = ((left + right) / 2, (top + bottom) / 2, turned.scale)
    return Fields(
        x, y, dist, edge, label, albedo, light, ground, ground_edge, ground_area, centre, foot, scene.seed
    )


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """The scene as a (size, size, 3) picture of bytes."""
    k = SUPERSAMPLING
    picture = styles.paint(fields_of(scene, size * k), scene.style)
    picture = picture.reshape(3, size, k, size, k).mean((2, 4))
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()
