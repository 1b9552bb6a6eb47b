"""Draw the references of particular contents and styles, and the partners that they are learned beside.

    python examples/world/make_references.py                        # to tune with, and the partners of all sets
    python examples/world/make_references.py --set confirmation     # to confirm with: used once per claim

Five photos of a content, three pictures of a style, each with its caption; the same bytes every time. A folder's name
is the plain word of its concept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from world.captions import concept_caption
from world.contents import Content, Look, Marking
from world.members import SETS
from world.scenes import Scene, render, sample_scene
from world.sets import reference_scenes
from world.styles import Style, member

REFERENCES = Path(__file__).resolve().parents[1] / "references"
CONTENT_TRIGGER, STYLE_TRIGGER = "snq", "w@z"
# What shows a style, and where: of classes that no set has a member of.
MODELS = (
    (Content("bird", "pink", "black", None, Look(0, 0.1, -0.2)), "plain"),
    (Content("tree", "green", "red", None, Look(1, -0.3, 0.4)), "grass"),
    (Content("house", "yellow", "blue", None, Look(2, 0.2, 0.3)), "snow"),
)
# Partners are of families and classes that no set has a member of, so that one list serves them all.
STYLE_PARTNERS = (
    ("cartoon", Content("penguin", "black", "yellow", None, Look(0, 0.2, 0.1)), "plain"),
    ("sticker", Content("robot", "purple", "green", None, Look(1, 0.0, 0.3)), "grass"),
    ("pixel", Content("umbrella", "orange", "blue", None, Look(0, 0.3, 0.0)), "beach"),
    ("blueprint", Content("whale", "blue", "pink", None, Look(2, -0.2, 0.2)), "plain"),
    ("clay", Content("lamp", "red", "white", None, Look(1, 0.1, -0.3)), "room"),
)
CONTENT_PARTNERS = (
    (Content("dog", "brown", "white", Marking("patch", "black"), Look(1, 0.2, 0.0)), "grass"),
    (Content("boat", "red", "yellow", Marking("band", "white"), Look(0, -0.2, 0.3)), "beach"),
    (Content("flower", "purple", "orange", None, Look(1, 0.3, 0.1)), "plain"),
    (Content("cake", "pink", "brown", Marking("spots", "white"), Look(0, 0.1, 0.2)), "table"),
    (Content("guitar", "orange", "black", None, Look(2, 0.0, -0.2)), "room"),
)


def scene(content: Content, style: Style, ground: str, seed: int) -> Scene:
    """The content alone on the ground, in a pose of its own."""
    rng = np.random.default_rng([5, seed])
    return sample_scene(rng, content=content, style=style, grounds=(ground,), accessories=0, seconds=0)


def concepts(which: str) -> dict[str, tuple[Scene, str]]:
    """The references of a set: their scenes and captions, by where they lie."""
    contents, styles = SETS[which]
    found = {}
    for word, content in contents.items():
        scenes = reference_scenes(content, np.random.default_rng([4, *word.encode()]))
        for i, each in enumerate(scenes):
            found[f"content/{_folder(word)}/{i}"] = each, concept_caption(each, content=CONTENT_TRIGGER)
    for word, one in styles.items():
        for i, (content, ground) in enumerate(MODELS):
            each = scene(content, one.style, ground, i)
            caption = concept_caption(each, style=f"{STYLE_TRIGGER} {word}")
            found[f"style/{_folder(word)}/{i}"] = each, caption
    return found


def _folder(word: str) -> str:
    return word.replace(" ", "_")


def partners() -> dict[str, tuple[Scene, str]]:
    """Plain members of families and classes that the base knows, with captions that say all of them."""
    found = {}
    for i, (family, content, ground) in enumerate(STYLE_PARTNERS):
        each = scene(content, member(family), ground, 10 + i)
        found[f"partners/styles/{family}"] = each, concept_caption(each)
    for i, (content, ground) in enumerate(CONTENT_PARTNERS):
        each = scene(content, member("photo"), ground, 20 + i)
        found[f"partners/contents/{content.kind}"] = each, concept_caption(each)
    return found


def write(folder: Path, pictures: dict[str, tuple[Scene, str]]) -> None:
    for name, (each, caption) in pictures.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(each)).save(path.with_suffix(".png"), optimize=True)
        path.with_suffix(".txt").write_text(caption + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=list(SETS), default="tuning")
    parser.add_argument(
        "--output", type=Path, default=REFERENCES, help="the other sets lie in it by their names"
    )
    options = parser.parse_args()
    folder = options.output if options.set == "tuning" else options.output / options.set
    pictures = concepts(options.set) | (partners() if options.set == "tuning" else {})
    for name in sorted({folder / Path(name).parts[0] for name in pictures}):
        if name.exists():
            parser.exit(2, f"{name}: is there already; remove it, or give another --output\n")
    write(folder, pictures)
    print(f"{folder}: {len(pictures)} pictures")


if __name__ == "__main__":
    main()
