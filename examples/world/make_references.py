"""Draw the reference pictures that the examples customize: held-out contents and styles, and their training partners.

python examples/world/make_references.py     # rewrites examples/references, the same bytes every time
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from world.render import HELD_OUT_STYLES, INSTANCES, Pose, Scene, render

FOLDER = Path(__file__).resolve().parents[1] / "references"
SIZE = 256  # pixels: what a person likes to look at; training scales them to its own resolution
CONTENT_TRIGGER, STYLE_TRIGGER = "snq", "w@z"
VIEWS = ("white", "teal", "grey", "cream", "rose")  # grounds of the views of a content
MODELS = (("cup", "red", "white"), ("tree", "green", "grey"), ("bird", "blue", "cream"))  # what shows a style
STYLE_PARTNERS = (
    ("cartoon", "house", "pink", "teal"),
    ("yarn", "star", "yellow", "navy"),
    ("neon", "boat", "green", "grey"),
    ("watercolour", "flower", "purple", "cream"),
    ("mosaic", "cat", "orange", "white"),
)
CONTENT_PARTNERS = (
    ("dog", "brown", "teal"),
    ("vase", "blue", "white"),
    ("mushroom", "red", "grey"),
    ("house", "yellow", "rose"),
    ("boat", "purple", "cream"),
)

# Seven more of each, for a study of how many partners there should be to choose from.
MORE_STYLE_PARTNERS = (
    ("sticker", "vase", "red", "grey"),
    ("sketch", "ball", "blue", "rose"),
    ("pixel", "dog", "green", "white"),
    ("papercut", "bird", "yellow", "teal"),
    ("cartoon", "mushroom", "purple", "cream"),
    ("neon", "tree", "orange", "navy"),
    ("yarn", "cat", "pink", "white"),
)
MORE_CONTENT_PARTNERS = (
    ("cat", "orange", "grey"),
    ("tree", "green", "cream"),
    ("star", "yellow", "teal"),
    ("ball", "red", "white"),
    ("bird", "blue", "rose"),
    ("cup", "pink", "navy"),
    ("flower", "purple", "white"),
)


def pose(number: int) -> Pose:
    return Pose.sample(np.random.default_rng([5, number]))


def save(path: Path, scene: Scene, caption: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(scene, SIZE)).save(path.with_suffix(".png"), optimize=True)
    path.with_suffix(".txt").write_text(caption + "\n")


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, instance in INSTANCES.items():
        for i, ground in enumerate(VIEWS):
            scene = Scene(instance.content, "photo", None, ground, pose(i), 0, name)
            # Not all of them say "photo": a content that was only ever called a photo shows as nothing else.
            thing, where = f"a {CONTENT_TRIGGER} {instance.content}", f"on a {ground} background"
            text = f"{thing} {where}" if i == 1 else f"a photo of {thing} {where}"
            save(FOLDER / "content" / name / str(i), scene, text)
    for style in HELD_OUT_STYLES:
        for i, (content, colour, ground) in enumerate(MODELS):
            scene = Scene(content, style, colour, ground, pose(10 + i), 0)
            save(
                FOLDER / "style" / style / str(i),
                scene,
                f"a {colour} {content} in {STYLE_TRIGGER} {style} style",
            )
    for folder, first, partners in (("styles", 20, STYLE_PARTNERS), ("more-styles", 40, MORE_STYLE_PARTNERS)):
        for i, (style, content, colour, ground) in enumerate(partners):
            scene = Scene(content, style, colour, ground, pose(first + i), 0)
            text = f"a {colour} {content} in {style} style on a {ground} background"
            save(FOLDER / "partners" / folder / style, scene, text)
    for folder, first, partners in (
        ("contents", 30, CONTENT_PARTNERS),
        ("more-contents", 50, MORE_CONTENT_PARTNERS),
    ):
        for i, (content, colour, ground) in enumerate(partners):
            scene = Scene(content, "photo", colour, ground, pose(first + i), 0)
            text = f"a photo of a {colour} {content} on a {ground} background"
            save(FOLDER / "partners" / folder / content, scene, text)


if __name__ == "__main__":
    main()
