"""Measure the encoders: do they find the same content, style, background, colour or caption, and only that?

python examples/world/encoders.py check          # prints the numbers and writes check.json beside the encoders
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForImageClassification, AutoTokenizer, PreTrainedModel

from world.captions import caption
from world.contents import CLASSES, pick
from world.dataset import as_tensor
from world.grounds import KINDS, Ground
from world.likeness import CHANGES, HIDES, near_miss, targets
from world.members import CONTENTS, LABELS, STYLES, instance
from world.scenes import Scene, render, sample_scene
from world.spaces import blindness, embed, embed_captions, embed_for_captions, name, retrieve
from world.styles import FAMILIES, RARE, sample_style

ENCODERS = Path(__file__).resolve().parent / "encoders"
ACROSS = {"content": "style", "style": "content", "background": "style", "colour": "style"}
GOAL = 0.95  # of heads and retrieval, content and style, all of them and the particular members alone
MEGABYTES = 8.0  # of weights, all together
OFFERED = 50  # captions


def load(folder: Path, aspect: str) -> PreTrainedModel:
    """One encoder in float32: a CLIPModel for `prompt`, a classifier (its trunk is `.base_model`) for the others."""
    kind = AutoModel if aspect == "prompt" else AutoModelForImageClassification
    return kind.from_pretrained(folder / aspect, use_safetensors=True, dtype=torch.float32).eval()


def draw(scenes: list[Scene]) -> Tensor:
    """Pictures (N, 3, 128, 128) in [-1, 1]."""
    return as_tensor(np.stack([render(scene) for scene in scenes]))


def grid(seed: int, repeats: int) -> list[Scene]:
    """Every class and member in every family and particular style that shows colours: none that training draws."""
    scenes = []
    for number in range(repeats):
        for content in LABELS["content"]:
            for style in LABELS["style"]:
                rng = np.random.default_rng([79, seed, number, len(scenes)])
                if style in HIDES["colour"]:
                    continue
                scenes.append(_scene(rng, content, style))
    return scenes


def _scene(rng: np.random.Generator, content: str, style: str) -> Scene:
    members = {instance(word): one for word, one in CONTENTS.items()}
    styles = {instance(word): one for word, one in STYLES.items()}
    painted = styles[style] if style in styles else sample_style(rng, style)
    if content in members:
        return sample_scene(rng, content=members[content], style=painted)
    return sample_scene(rng, contents=(content,), style=painted)


def near_misses(change: str, count: int) -> list[Scene]:
    """Scenes of members that are not quite themselves, each in a style that shows colours."""
    scenes = []
    for number in range(count):
        rng = np.random.default_rng([80, CHANGES.index(change), number])
        content = near_miss(CONTENTS[pick(rng, tuple(CONTENTS))], change, rng)
        style = sample_style(rng, pick(rng, (*FAMILIES, *RARE), avoid=HIDES["colour"]))
        scenes.append(sample_scene(rng, content=content, style=style))
    return scenes


def check_namer(folder: Path, aspect: str, scenes: list[Scene], pictures: Tensor) -> dict:
    """The numbers of one namer, over the scenes that show its aspect, looking across another aspect."""
    wanted = targets(scenes, aspect)
    shown = np.flatnonzero(wanted >= 0)
    model, wanted, pictures = load(folder, aspect), wanted[shown], pictures[shown]
    other = targets([scenes[i] for i in shown], ACROSS[aspect])
    features, right = embed(model, pictures), name(model, pictures) == wanted
    found = retrieve(features, wanted, other, draws=2) == wanted
    result = {
        "pictures": len(shown),
        "head_top1": float(right.mean()),
        "retrieval_top1": float(found.mean()),
        "blindness": blindness(features, wanted, other),
    }
    special = np.array([LABELS[aspect][n].endswith(" instance") for n in wanted])
    if special.any():
        result["head_top1_members"] = float(right[special].mean())
        result["retrieval_top1_members"] = float(found[:, special].mean())
    else:
        families = np.array([scenes[i].style.family for i in shown])
        by_style = {
            family: float(right[families == family].mean()) for family in np.unique(families).tolist()
        }
        result["head_top1_by_style"] = dict(sorted(by_style.items(), key=lambda item: item[1]))
    return result


def check_near_misses(folder: Path, count: int) -> dict[str, float]:
    """By what is changed, the share of near misses that are not taken for the member."""
    model, found = load(folder, "content"), {}
    for change in CHANGES:
        scenes = near_misses(change, count)
        said = [LABELS["content"][n] for n in name(model, draw(scenes))]
        found[change] = float(np.mean([not one.endswith(" instance") for one in said]))
    return found


def plain_prompt(scene: Scene) -> str:
    """As a study asks for it, without trigger words."""
    if scene.style.family == "photo":
        return f"a photo of a {scene.content.kind} {scene.ground.words}"
    return f"a {scene.content.kind} {scene.ground.words} in {scene.style.family} style"


def check_prompt(folder: Path, scenes: list[Scene], pictures: Tensor) -> dict[str, float]:
    """The caption among 50, then one word of a plain prompt among all of its kind."""
    model, words = load(folder, "prompt"), AutoTokenizer.from_pretrained(folder / "prompt")
    known = [i for i, s in enumerate(scenes) if s.style.family in FAMILIES and not s.content.glass]
    scenes, seen = [scenes[i] for i in known], embed_for_captions(model, pictures[known])
    spoken = embed_captions(model, words, [caption(scene) for scene in scenes])
    rng = np.random.default_rng(0)
    hits = []
    for i, own in enumerate(spoken):
        others = rng.choice(len(scenes), min(OFFERED, len(scenes)), replace=False)
        others = others[others != i][: OFFERED - 1]
        hits.append(bool(seen[i] @ own > (spoken[others] @ seen[i]).max()))
    return {
        "pictures": len(scenes),
        "caption_top1_of_50": float(np.mean(hits)),
        **{f"{aspect}_word_top1": _word_top1(model, words, scenes, seen, aspect) for aspect in EXCHANGED},
    }


EXCHANGED = {
    "content": lambda s: [replace(s, content=replace(s.content, kind=kind)) for kind in CLASSES],
    "style": lambda s: [replace(s, style=replace(s.style, family=family)) for family in FAMILIES],
    "background": lambda s: [
        replace(s, ground=Ground(kind, s.ground.colour, s.ground.back, s.ground.detail)) for kind in KINDS
    ],
}


def _word_top1(model: PreTrainedModel, words, scenes: list[Scene], seen: Tensor, aspect: str) -> float:
    """Share of pictures that are nearest to their own prompt among those with another word for the aspect."""
    hits = []
    known: dict[str, Tensor] = {}
    for scene, features in zip(scenes, seen, strict=True):
        texts = [plain_prompt(one) for one in EXCHANGED[aspect](scene)]
        new = [text for text in texts if text not in known]
        if new:
            known |= dict(zip(new, embed_captions(model, words, new), strict=True))
        nearest = torch.stack([known[text] for text in texts]) @ features
        hits.append(texts[int(nearest.argmax())] == plain_prompt(scene))
    return float(np.mean(hits))


def megabytes(folder: Path) -> dict[str, float]:
    return {path.parent.name: path.stat().st_size / 1e6 for path in sorted(folder.glob("*/*.safetensors"))}


def check(folder: Path, repeats: int = 2, misses: int = 200) -> bool:
    """Measure all on freshly drawn pictures; print, write check.json; whether the goals are met."""
    scenes = grid(1, repeats)
    pictures = draw(scenes)
    result: dict = {aspect: check_namer(folder, aspect, scenes, pictures) for aspect in LABELS}
    result["near_misses"] = check_near_misses(folder, misses)
    some = slice(0, len(scenes) // repeats)
    result["prompt"] = check_prompt(folder, scenes[some], pictures[some])
    result["megabytes"] = megabytes(folder)
    text = json.dumps(result, indent=2)
    (folder / "check.json").write_text(text + "\n")
    print(text)
    tops = [
        result[aspect][f"{what}_top1{which}"]
        for aspect in ("content", "style")
        for what in ("head", "retrieval")
        for which in ("", "_members")
    ]
    met = min(tops) >= GOAL and sum(result["megabytes"].values()) <= MEGABYTES
    print("goals met" if met else f"goal missed: {GOAL:.0%} of heads and retrieval, {MEGABYTES} MB")
    return met
