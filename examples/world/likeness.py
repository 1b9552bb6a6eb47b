"""Scenes that encoders learn from: particular members, what differs from one in a single thing, and all the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from world.contents import COLOURS, VARIANTS, Content, Look, Marking, marking_kinds, pick
from world.members import CONTENTS, LABELS, STYLES, labels
from world.scenes import Scene, sample_scene
from world.styles import FAMILIES, RARE, sample_style

# Families that show too little of an aspect to ask for it. In blueprint another main colour moves a pixel of the
# content by 23 levels of 255 (in one scene by 2), in chalk, the next, by 53; another ground one of the ground by 16
# and by 25.
HIDES: dict[str, tuple[str, ...]] = {"colour": ("blueprint",), "background": ("blueprint",)}
MEMBER, NEAR_MISS = 0.35, 0.2  # shares of scenes
NAMED = 0.4  # share of scenes in a particular style
CHANGES = ("main", "second", "marking", "look")
FAR = 0.8  # by how much proportions differ, in all, in a look that is not the member's


def shows(scene: Scene, aspect: str) -> bool:
    """Whether the scene's style lets one see the aspect."""
    return scene.style.family not in HIDES.get(aspect, ())


def targets(scenes: list[Scene], aspect: str) -> np.ndarray:
    """Numbers (N,) of what is to be said among LABELS[aspect]; -1 where the style does not show it."""
    return np.array([LABELS[aspect].index(labels(s)[aspect]) if shows(s, aspect) else -1 for s in scenes])


def near_miss(content: Content, change: str, rng: np.random.Generator) -> Content:
    """The content but for one thing: its main or second colour, its marking or the marking's colour, its shape."""
    marking = content.marking
    taken = (content.main, content.second, *([marking.colour] if marking else []))
    if change == "look":
        return replace(content, look=_another_look(content.look, rng))
    if change != "marking":
        return replace(content, **{change: pick(rng, tuple(COLOURS), avoid=taken)})
    colour = pick(rng, tuple(COLOURS), avoid=taken)
    kinds = marking_kinds(content.kind)
    if marking is None:
        return replace(content, marking=Marking(pick(rng, kinds), colour))
    others = (
        None,
        Marking(pick(rng, kinds, avoid=(marking.kind,)), colour),
        *([] if marking.kind == "face" else [Marking(marking.kind, colour)]),  # a face is always dark
    )
    return replace(content, marking=others[int(rng.integers(len(others)))])


def _another_look(look: Look, rng: np.random.Generator) -> Look:
    while True:
        a, b = rng.uniform(-1, 1, 2).round(3).tolist()
        other = Look(int(rng.integers(VARIANTS)), a, b)
        if other.variant != look.variant or abs(a - look.a) + abs(b - look.b) >= FAR:
            return other


def any_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the set that encoders learn from: a function of (seed, index) alone.

    Where a style hides colours a member cannot be told from others of its class: there is none in it.
    """
    rng = np.random.default_rng([78, seed, index])
    if rng.random() < NAMED:
        style = STYLES[pick(rng, tuple(STYLES))]
    else:
        style = sample_style(rng, pick(rng, (*FAMILIES, *RARE)))
    share, content = rng.random(), None
    if share < MEMBER + NEAR_MISS and style.family not in HIDES["colour"]:
        content = CONTENTS[pick(rng, tuple(CONTENTS))]
        if share >= MEMBER:
            content = near_miss(content, pick(rng, CHANGES), rng)
    return sample_scene(rng, content=content, style=style)
