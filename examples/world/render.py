"""Renders the drawn world: scenes of one content in one style, their captions and contact sheets.

Run as a script, `python examples/world/render.py OUT.png` draws every content and instance in every style.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from world.shapes import BACKGROUNDS, COLOURS, FIXED, INSTANCES, PARTS, RGB, Instance, Part
from world.styles import HELD_OUT, PRETRAINING, Array, Fields, rgb

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "CONTENTS",
    "HELD_OUT_STYLES",
    "INSTANCES",
    "STYLES",
    "Instance",
    "Pose",
    "Scene",
    "caption",
    "contact_sheet",
    "render",
    "sample_scene",
]

CONTENTS: tuple[str, ...] = tuple(PARTS)
STYLES: tuple[str, ...] = tuple(PRETRAINING)
HELD_OUT_STYLES: tuple[str, ...] = tuple(HELD_OUT)
SUPERSAMPLING = 2
PAINT_LINE = 0.018  # by how much the lines around a marking are thinner than those around a part
BEVEL = 0.34  # half frames over which a silhouette rounds off


@dataclass(frozen=True)
class Pose:
    """Where the object sits: turned by angle (radians), scaled, shifted by fractions of the frame."""

    angle: float = 0.0
    scale: float = 1.0
    dx: float = 0.0
    dy: float = 0.0

    @staticmethod
    def sample(rng: np.random.Generator) -> Pose:
        low, high = (-pi / 15, 0.85, -0.05, -0.05), (pi / 15, 1.1, 0.05, 0.05)
        return Pose(*rng.uniform(low, high).tolist())


@dataclass(frozen=True)
class Scene:
    """All that a picture shows; `seed` sets the object's proportions, `instance` its markings."""

    content: str
    style: str
    colour: str | None
    background: str
    pose: Pose
    seed: int
    instance: str | None = None


def sample_scene(
    rng: np.random.Generator,
    contents: Sequence[str] = CONTENTS,
    styles: Sequence[str] = STYLES,
    colours: Sequence[str] = tuple(COLOURS),
    backgrounds: Sequence[str] = tuple(BACKGROUNDS),
) -> Scene:
    content, style, colour, background = (
        names[rng.integers(len(names))] for names in map(tuple, (contents, styles, colours, backgrounds))
    )
    return Scene(content, style, colour, background, Pose.sample(rng), int(rng.integers(2**31)))


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene) -> str:
    thing = _article(f"{scene.colour} {scene.content}" if scene.colour else scene.content)
    place = f"on {_article(scene.background)} background"
    if scene.style == "photo":
        return f"a photo of {thing} {place}"
    return f"{thing} in {scene.style} style {place}"


# --- from a scene to fields ------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _frame(n: int) -> tuple[Array, Array]:
    t = ((np.arange(n, dtype=np.float32) + 0.5) * (2 / n) - 1).astype(np.float32)
    x, y = np.meshgrid(t, t)
    return x, y


def _object_coordinates(scene: Scene, x: Array, y: Array) -> tuple[Array, Array]:
    """Frame coordinates undone by the pose, and by the seed's proportions (an instance has its own)."""
    pose = scene.pose
    stretch = 1.0 if scene.instance else 1 + 0.08 * np.random.default_rng(scene.seed).uniform(-1, 1)
    c, s = cos(pose.angle) / pose.scale, sin(pose.angle) / pose.scale
    u, v = x - 2 * pose.dx, y - 2 * pose.dy
    return (c * u + s * v) * float(stretch), (c * v - s * u) / float(stretch)


def _part_colour(part: Part, main: RGB, instance: Instance | None) -> Array:
    base = rgb(*main)
    if instance and part.name in instance.repaint:
        return rgb(*instance.repaint[part.name])
    if part.role in FIXED:
        return rgb(*FIXED[part.role])
    return {"main": base, "accent": base * 0.62, "pale": base * 0.42 + 0.58}[part.role]


def _light(dist: Array, pixel: float) -> Array:
    """Lambert shading of the silhouette, rounded off as by a quarter circle."""
    t = np.clip(-dist / BEVEL, 0, 1)
    height = BEVEL * np.sqrt(t * (2 - t))
    gy, gx = np.gradient(height, pixel)
    return np.clip((0.50 * gx + 0.58 * gy + 0.64) / np.sqrt(1 + gx * gx + gy * gy), 0, 1)


def _fields(scene: Scene, n: int) -> Fields:
    x, y = _frame(n)
    u, v = _object_coordinates(scene, x, y)
    scale, pixel = scene.pose.scale, 2 / n
    instance = INSTANCES[scene.instance] if scene.instance else None
    main = instance.main if instance else COLOURS[scene.colour]
    marks = [(mark, mark.shape(u, v) * scale) for mark in instance.marks] if instance else []
    albedo = np.empty((3, n, n), np.float32)
    albedo[:] = rgb(*main)
    for mark, m in marks:
        if not mark.on:  # such a marking also colours the glow around the object
            albedo += (rgb(*mark.rgb) - albedo) * (m < 0)
    dist, edge, label = np.full_like(x, 9), np.full_like(x, 9), np.zeros(x.shape, np.int8)
    for i, part in enumerate(PARTS[scene.content], 1):
        d = part.shape(u, v) * scale
        cover = np.clip(0.5 - d / pixel, 0, 1)
        inside = d < 0
        albedo += (_part_colour(part, main, instance) - albedo) * cover
        dist = np.minimum(dist, d)
        edge = np.where(inside, -d, np.minimum(edge, d))
        label[inside] = i
        for mark, m in marks:
            if part.name in mark.on or (not mark.on and part.role == "main"):
                albedo += (rgb(*mark.rgb) - albedo) * (cover * np.clip(0.5 - m / pixel, 0, 1))
                edge = np.where(inside, np.minimum(edge, np.abs(m) + PAINT_LINE), edge)
    centre = (2 * scene.pose.dx, 2 * scene.pose.dy, scale)
    return Fields(x, y, dist, edge, label, albedo, _light(dist, pixel), centre)


# --- pictures --------------------------------------------------------------------------------------


def render(scene: Scene, size: int = 64) -> np.ndarray:
    """The scene as a (size, size, 3) picture of bytes."""
    style = PRETRAINING.get(scene.style) or HELD_OUT[scene.style]
    picture = style(_fields(scene, size * SUPERSAMPLING), rgb(*BACKGROUNDS[scene.background]))
    k = SUPERSAMPLING
    picture = picture.reshape(3, size, k, size, k).mean((2, 4))
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0).copy()


def contact_sheet(scenes_grid: Sequence[Sequence[Scene]], size: int = 64) -> Image.Image:
    """One picture for each scene, in rows and columns."""
    rows = [np.concatenate([render(scene, size) for scene in row], 1) for row in scenes_grid]
    return Image.fromarray(np.concatenate(rows, 0))


def everything() -> list[list[Scene]]:
    """All contents, then all instances, as rows; all styles as columns; colours and grounds take turns."""
    rng = np.random.default_rng(0)
    colours, grounds, styles = tuple(COLOURS), tuple(BACKGROUNDS), STYLES + HELD_OUT_STYLES
    rows = [(content, None) for content in CONTENTS] + [(i.content, name) for name, i in INSTANCES.items()]
    return [
        [
            Scene(
                content,
                style,
                None if instance else colours[(3 * r + c) % 8],
                grounds[(r + c) % 6],
                Pose.sample(rng),
                100 * r + c,
                instance,
            )
            for c, style in enumerate(styles)
        ]
        for r, (content, instance) in enumerate(rows)
    ]


if __name__ == "__main__":
    contact_sheet(everything(), 64).save(sys.argv[1])
