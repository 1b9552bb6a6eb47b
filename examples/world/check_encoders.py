"""Measure the embedded encoders: do they find the same content, style, background, colour or caption, and only that?

python examples/world/encoders.py --check          # prints the table, writes check.json and confusion.png
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
from world2.spaces import blindness, embed, embed_captions, embed_for_captions, name, retrieve

from world.classifier import CONTENT_NAMES, STYLE_NAMES
from world.dataset import as_tensor
from world.render import (
    BACKGROUNDS,
    COLOURS,
    CONTENTS,
    HELD_OUT_STYLES,
    INSTANCES,
    Scene,
    caption,
    render,
    sample_scene,
)

ENCODERS = Path(__file__).resolve().parent / "encoders"
LABELS = {
    "content": CONTENT_NAMES,
    "style": STYLE_NAMES,
    "background": tuple(BACKGROUNDS),
    "colour": tuple(COLOURS),
}
# The styles that hide an aspect. At night and on a blackboard a change of ground moves a pixel by 9 and by 1 levels of
# 255 in the mean.
HIDES = {"background": ("neon", "chalk"), "colour": ()}
GOAL = 0.95  # retrieval of the right content across styles, and of the right style across contents
MEGABYTES = 6.0  # of weights, all together
TRIGGERS = ("snq", "w@z")


def label(scene: Scene, aspect: str) -> int:
    """The number of what `scene` shows, among LABELS[aspect]."""
    name = getattr(scene, aspect)
    if aspect == "content" and scene.instance:
        name = f"{scene.instance} instance"
    if aspect == "colour" and scene.instance:
        name = next(colour for colour, rgb in COLOURS.items() if rgb == INSTANCES[scene.instance].main)
    return LABELS[aspect].index(name)


def labels(scenes: list[Scene], aspect: str) -> np.ndarray:
    return np.array([label(scene, aspect) for scene in scenes])


def scene_of(rng: np.random.Generator, content: int, style: str) -> Scene:
    """A scene of content number `content`, an instance or not, in `style`; the rest drawn at random."""
    if content < len(CONTENTS):
        return sample_scene(rng, contents=(CONTENTS[content],), styles=(style,))
    instance = list(INSTANCES)[content - len(CONTENTS)]
    plain = sample_scene(rng, contents=(INSTANCES[instance].content,), styles=(style,))
    return replace(plain, colour=None, instance=instance)


def grid(seed: int, repeats: int) -> list[Scene]:
    """`repeats` scenes of each of the 20 contents in each of the 14 styles: none that training draws."""
    rng = np.random.default_rng([79, seed])
    return [
        scene_of(rng, content, style)
        for _ in range(repeats)
        for content in range(len(CONTENT_NAMES))
        for style in STYLE_NAMES
    ]


def draw(scenes: list[Scene]) -> Tensor:
    """Pictures (N, 3, 64, 64) in [-1, 1]."""
    return as_tensor(np.stack([render(scene) for scene in scenes]))


# --- reading the folders ---------------------------------------------------------------------------


def load(name: str) -> PreTrainedModel:
    """One encoder in float32: a CLIPModel for `prompt`, a classifier (its trunk is `.base_model`) for the others."""
    kind = AutoModel if name == "prompt" else AutoModelForImageClassification
    return kind.from_pretrained(ENCODERS / name, use_safetensors=True, dtype=torch.float32).eval()


# --- measures --------------------------------------------------------------------------------------


def triggered(scene: Scene) -> str:
    """The caption of `scene` as a customized model is asked for it: with trigger words, without the colour."""
    if scene.style == "photo":
        return f"a photo of a {TRIGGERS[0]} {scene.content} on a {scene.background} background"
    return f"a {TRIGGERS[0]} {scene.content} in {TRIGGERS[1]} {scene.style} style"


def _caption_top1(model: PreTrainedModel, tokenizer, scenes: list[Scene], pictures: Tensor) -> float:
    """Share of pictures whose caption is found among 50, its own and those of 49 others."""
    features = embed_for_captions(model, pictures)
    texts = [caption(scene) for scene in scenes]
    rng, hits = np.random.default_rng(0), []
    spoken = embed_captions(model, tokenizer, texts)
    for i, text in enumerate(texts):
        others = [j for j in rng.permutation(len(texts))[:80] if texts[j] != text][:49]
        hits.append(bool(features[i] @ spoken[i] > (spoken[others] @ features[i]).max()))
    return float(np.mean(hits))


def _aspect_top1(
    model: PreTrainedModel, tokenizer, scenes: list[Scene], pictures: Tensor, aspect: str, say
) -> float:
    """Share of pictures that are nearest to their own caption among those with another word for `aspect`."""
    words = {"content": CONTENTS, "style": STYLE_NAMES, "background": tuple(BACKGROUNDS)}[aspect]
    texts = [say(replace(scene, **{aspect: word})) for scene in scenes for word in words]
    spoken = embed_captions(model, tokenizer, texts).unflatten(0, (len(scenes), len(words)))
    nearest = (spoken @ embed_for_captions(model, pictures)[:, :, None]).squeeze(2).argmax(1)
    return float(
        np.mean([words[n] == getattr(s, aspect) for n, s in zip(nearest.tolist(), scenes, strict=True)])
    )


def held_out(scenes: list[Scene]) -> np.ndarray:
    return np.array([bool(scene.instance) and scene.style in HELD_OUT_STYLES for scene in scenes])


def check_namer(aspect: str, across: str, scenes: list[Scene], pictures: Tensor) -> tuple[dict, np.ndarray]:
    """The numbers of the encoder of `aspect`, looking `across` the other aspect, and the table of its confusions."""
    wanted, other = labels(scenes, aspect), labels(scenes, across)
    model = load(aspect)
    features, right = embed(model, pictures), name(model, pictures) == wanted
    found = retrieve(features, wanted, other, draws=5)
    table = np.zeros((len(LABELS[aspect]),) * 2)
    np.add.at(table, (np.broadcast_to(wanted, found.shape), found), 1)
    both, hits = held_out(scenes), found == wanted
    result = {
        "pictures": len(scenes),
        "dimensions": features.shape[1],
        "head_top1": float(right.mean()),
        "retrieval_top1": float(hits.mean()),
        "blindness": blindness(features, wanted, other),
    }
    if both.any():
        result |= {
            "head_top1_held_out": float(right[both].mean()),
            "retrieval_top1_held_out": float(hits[:, both].mean()),
        }
    return result, table / table.sum(1, keepdims=True)


def check_shown(aspect: str, scenes: list[Scene], pictures: Tensor) -> dict:
    """The numbers of the encoder of `aspect`, over the styles that show it, and its head style by style."""
    styles = np.array([scene.style for scene in scenes])
    right = name(load(aspect), pictures) == labels(scenes, aspect)
    shown = np.flatnonzero(~np.isin(styles, HIDES[aspect]))
    result, _ = check_namer(aspect, "style", [scenes[i] for i in shown], pictures[shown])
    return result | {"head_top1_by_style": {s: float(right[styles == s].mean()) for s in STYLE_NAMES}}


def check_prompt(scenes: list[Scene], pictures: Tensor) -> dict:
    """The numbers of the prompt encoder: the caption among 50, then one word of it among all of its kind."""
    model, tokenizer = load("prompt"), AutoTokenizer.from_pretrained(ENCODERS / "prompt")
    both = np.flatnonzero(held_out(scenes))
    special, seen = [scenes[i] for i in both], pictures[both]
    shown = np.flatnonzero([scene.style not in HIDES["background"] for scene in scenes])
    return {
        "pictures": len(scenes),
        "dimensions": model.config.projection_dim,
        "caption_top1_of_50": _caption_top1(model, tokenizer, scenes, pictures),
        "content_word_top1": _aspect_top1(model, tokenizer, scenes, pictures, "content", caption),
        "style_word_top1": _aspect_top1(model, tokenizer, scenes, pictures, "style", caption),
        "background_word_top1": _aspect_top1(
            model, tokenizer, [scenes[i] for i in shown], pictures[shown], "background", caption
        ),
        "content_word_top1_with_triggers": _aspect_top1(
            model, tokenizer, scenes, pictures, "content", triggered
        ),
        "style_word_top1_with_triggers": _aspect_top1(model, tokenizer, scenes, pictures, "style", triggered),
        "content_word_top1_with_triggers_held_out": _aspect_top1(
            model, tokenizer, special, seen, "content", triggered
        ),
        "style_word_top1_with_triggers_held_out": _aspect_top1(
            model, tokenizer, special, seen, "style", triggered
        ),
    }


def megabytes() -> dict[str, float]:
    return {path.parent.name: path.stat().st_size / 1e6 for path in sorted(ENCODERS.glob("*/*.safetensors"))}


def check(repeats: int = 8) -> bool:
    """Measure all on freshly drawn pictures; print, write check.json and confusion.png; True if goals are met."""
    scenes = grid(1, repeats)
    pictures = draw(scenes)
    content, contents_table = check_namer("content", "style", scenes, pictures)
    style, styles_table = check_namer("style", "content", scenes, pictures)
    some = slice(0, len(scenes) // repeats * max(1, repeats // 2))
    result = {
        "content": content,
        "style": style,
        "background": check_shown("background", scenes, pictures),
        "colour": check_shown("colour", scenes, pictures),
        "prompt": check_prompt(scenes[some], pictures[some]),
        "megabytes": megabytes(),
    }
    (ENCODERS / "check.json").write_text(json.dumps(result, indent=2) + "\n")
    _figure(contents_table, styles_table)
    _print(result)
    tops = [r[k] for r in (content, style) for k in ("retrieval_top1", "retrieval_top1_held_out")]
    met = min(tops) >= GOAL and sum(result["megabytes"].values()) <= MEGABYTES
    print("goals met" if met else f"goal missed: {GOAL:.0%} retrieval, {MEGABYTES} MB")
    return met


def _print(numbers: dict, indent: str = "") -> None:
    for key, value in numbers.items():
        if isinstance(value, dict):
            print(f"{indent}{key}")
            _print(value, indent + "    ")
        else:
            print(
                f"{indent}{key:<44}{value:>8.3f}"
                if isinstance(value, float)
                else f"{indent}{key:<44}{value:>8}"
            )


def _figure(contents: np.ndarray, styles: np.ndarray) -> None:
    """Both tables of confusion, as one picture: queries down, what they were taken for across."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6.6), layout="constrained")
    for axes, table, names, title in zip(
        figure.subplots(1, 2),
        (contents, styles),
        (CONTENT_NAMES, STYLE_NAMES),
        ("content, looked for in other styles", "style, looked for in other contents"),
        strict=True,
    ):
        axes.imshow(table, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(f"{title}: {table.diagonal().mean():.1%} right")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("taken for")
        for i, j in zip(*np.nonzero(table > 0.002), strict=True):
            shade = "white" if table[i, j] > 0.5 else "black"
            axes.text(j, i, f"{100 * table[i, j]:.0f}", ha="center", va="center", fontsize=7, color=shade)
    figure.savefig(ENCODERS / "confusion.png", dpi=75, pil_kwargs={"optimize": True})
