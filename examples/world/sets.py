"""Particular contents: to tune with, to confirm with, and a rare one; what training references show of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from world.contents import Content, Look, Marking
from world.scenes import Scene, sample_scene

# Members of classes that the base knows. Words name what a caption may say of them, and sampling hits their
# numbers once in 10^8 scenes or less. Nothing is chosen by looking at how CONFIRMATION does.
TUNING: dict[str, Content] = {
    "bear": Content("bear", "orange", "white", Marking("half", "blue"), Look(0, 0.20, 0.35)),
    "car": Content("car", "purple", "yellow", Marking("star", "white"), Look(0, 0.40, 0.0)),
    "teapot": Content("teapot", "green", "red", Marking("stripes", "yellow"), Look(0, 0.10, 0.30)),
    "fish": Content("fish", "red", "blue", Marking("stripes", "white"), Look(0, 0.15, 0.25)),
}
CONFIRMATION: dict[str, Content] = {
    "cat": Content("cat", "black", "pink", Marking("heart", "white"), Look(0, 0.55, -0.25)),
    "rocket": Content("rocket", "white", "red", Marking("band", "blue"), Look(0, 0.35, 0.60)),
    "snail": Content("snail", "yellow", "purple", Marking("spots", "red"), Look(0, 0.45, 0.50)),
    "cup": Content("cup", "blue", "orange", Marking("face", "black"), Look(0, -0.30, 0.40)),
    "train": Content("train", "pink", "green", Marking("stripes", "white"), Look(2, -0.20, 0.30)),
    "mushroom": Content("mushroom", "brown", "yellow", Marking("patch", "green"), Look(1, 0.30, 0.65)),
}
RARE: dict[str, Content] = {
    "glass_vase": Content("vase", "green", "blue", None, Look(0, 0.30, -0.40), glass=True),
}

REFERENCE_GROUNDS = ("plain", "table", "grass", "room", "beach")


def reference_scenes(
    content: Content, rng: np.random.Generator, grounds: Sequence[str] = REFERENCE_GROUNDS
) -> list[Scene]:
    """One photo of the content alone on each of the grounds, in its own pose and light."""
    return [
        sample_scene(rng, content=content, families=("photo",), grounds=(kind,), accessories=0, seconds=0)
        for kind in grounds
    ]
