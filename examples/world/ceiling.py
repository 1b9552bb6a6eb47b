"""Measure what no method can pass here: the encoders on the members as the world draws them and as the autoencoder
gives them back, and the judges on the markings that the base draws.

python examples/world/ceiling.py --numbers examples/world/ceiling.json    # those that ship
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from world.captions import caption
from world.check_base import BASE, obeyed, reconstructed, sample
from world.check_encoders import ENCODERS, draw, load
from world.contents import CLASSES, marking_kinds, sample_content
from world.contents.markings import KINDS
from world.judge import JUDGES
from world.members import LABELS, SETS, instance
from world.scenes import Scene, render, sample_scene
from world.spaces import name

GROUNDS = ("plain", "snow", "night", "grass")  # those that studies ask for


def members(which: str, repeats: int) -> dict[tuple[str, str], list[Scene]]:
    """Every content of a set in every style of it, `repeats` poses of each, by their words."""
    contents, styles = SETS[which]
    return {
        (content, style): [
            sample_scene(
                np.random.default_rng([83, number]),
                content=contents[content],
                style=styles[style].style,
                grounds=(GROUNDS[number % len(GROUNDS)],),
                accessories=0,
                seconds=0,
            )
            for number in range(repeats)
        ]
        for content in contents
        for style in styles
    }


def right(scenes: dict[tuple[str, str], list[Scene]], seen: Callable[[Tensor], Tensor]) -> dict:
    """Shares of pictures, after `seen`, that the encoders call this very content, this very style and both: of all, and
    of content and style by member."""
    namers = {aspect: load(ENCODERS, aspect) for aspect in ("content", "style")}
    by_pair = {}
    for pair, some in scenes.items():
        pictures = seen(draw(some))
        by_pair[pair] = np.array(
            [
                name(model, pictures) == LABELS[aspect].index(instance(word))
                for (aspect, model), word in zip(namers.items(), pair, strict=True)
            ]
        )
    every = np.stack(list(by_pair.values()))  # (pairs, content and style, poses)
    members_of = [sorted({pair[place] for pair in by_pair}) for place in (0, 1)]
    return {
        "pictures": every[:, 0].size,
        "content": float(every[:, 0].mean()),
        "style": float(every[:, 1].mean()),
        "both": float(every.all(1).mean()),
        **{
            word: float(np.mean([hits[place] for pair, hits in by_pair.items() if pair[place] == word]))
            for place, words in enumerate(members_of)
            for word in words
        },
    }


def marked(kind: str, count: int) -> list[Scene]:
    """Photos of things that wear the marking, whatever else they are."""
    rng = np.random.default_rng([84, KINDS.index(kind)])
    wearers = [one for one in CLASSES if kind in marking_kinds(one)]
    scenes: list[Scene] = []
    while len(scenes) < count:
        content = sample_content(rng, wearers[int(rng.integers(len(wearers)))])
        if content.marking and content.marking.kind == kind:
            scenes.append(sample_scene(rng, content=content, families=("photo",), accessories=0, seconds=0))
    return scenes


def markings(pipe: StableDiffusionXLPipeline, judges: Path, count: int) -> dict[str, dict]:
    """By marking, the share of photos in which each judge finds it: of those that the base draws from their captions,
    and of the same scenes as the world draws them."""
    found = {}
    for kind in KINDS:
        scenes = marked(kind, count)
        found[kind] = {
            "base": _said(judges, sample(pipe, [caption(scene) for scene in scenes]), scenes),
            "world": _said(judges, [render(scene) for scene in scenes], scenes),
        }
    return found


def _said(judges: Path, pictures: Sequence, scenes: Sequence[Scene]) -> dict[str, float]:
    return {judge: row["marking"] for judge, row in obeyed(judges, pictures, scenes).items()}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=BASE)
    parser.add_argument("--judges", type=Path, default=JUDGES)
    parser.add_argument("--repeats", type=int, default=8, help="poses of a pair")
    parser.add_argument("--pictures", type=int, default=48, help="of a marking")
    parser.add_argument("--numbers", type=Path, help="where to keep what is printed")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    pipe = StableDiffusionXLPipeline.from_pretrained(options.base)
    pipe.set_progress_bar_config(disable=True)

    result: dict[str, object] = {}
    for which in ("tuning", "confirmation"):
        scenes = members(which, options.repeats)
        result[which] = {
            "drawn": right(scenes, lambda x: x),
            "through_autoencoder": right(scenes, partial(reconstructed, pipe)),
        }
    result["markings"] = markings(pipe, options.judges, options.pictures)
    text = json.dumps(result, indent=2)
    print(text)
    if options.numbers:
        options.numbers.write_text(text + "\n")


if __name__ == "__main__":
    main()
