"""Textual Inversion (Gal et al. 2022, arXiv 2208.01618): a new word's vectors, in every text encoder's token table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones.protocol import Attached, Backbone
from ..config.fields import setting
from ..config.training import ShowsContent, ShowsStyle, TrainConfig
from ..data.inputs import Inputs
from ..files.opening import Opened, save_method_file
from .denoising import DenoisingTask
from .low_rank import count, kind_of, words_of
from .protocol import Pair
from .tokens import (
    AttachedWords,
    LearnedWords,
    TokenLearner,
    check_captions,
    numbered,
    read_vectors,
    trigger_in,
)

RESULT = "learned_embeds.safetensors"  # the name that other tools give


@dataclass(frozen=True, kw_only=True)
class Inversion(TrainConfig):
    """Settings of a concept. The published rate is 5e-4 times four accumulated micro-batches."""

    own_presets = {"sdxl": dict(steps=500, lr=2e-3), "embedded": dict(lr=0.512, steps=400)}

    vectors: int = setting("vectors of the new word in each token table", 1, low=1, high=64)
    initial_word: str | None = setting("the plain word that the new one starts as (default: the class)", None)


@dataclass(frozen=True, kw_only=True)
class InversionContentConfig(ShowsContent, Inversion):
    """A content."""

    stage, result, needs = "textual-inversion-content", RESULT, ("content_dir",)


@dataclass(frozen=True, kw_only=True)
class InversionStyleConfig(ShowsStyle, Inversion):
    """A style."""

    stage, result, needs = "textual-inversion-style", RESULT, ("style_dir",)


class InversionTask(DenoisingTask):
    """One concept's images, whose captions hold its word."""

    def __init__(self, config: Inversion) -> None:
        self.kind = kind_of(config)
        prompt, trigger = (getattr(config, f"{self.kind}_{name}") for name in ("prompt", "trigger"))
        super().__init__(config, {self.kind: prompt}, prompt)
        check_captions(self.inputs.prompts, trigger)

    def start(self, backbone: Backbone) -> "InversionLearner":
        return InversionLearner(backbone, self.inputs, self.config)


class InversionLearner(TokenLearner):
    """The vectors of one word."""

    def __init__(self, backbone: Backbone, inputs: Inputs, config: Any) -> None:
        kind = kind_of(config)
        plain = config.initial_word or getattr(config, f"{kind}_class") or kind
        words = numbered(getattr(config, f"{kind}_trigger"), config.vectors)
        super().__init__(backbone, inputs, config, kind, dict.fromkeys(words, plain))
        backbone.attached = LearnedWords(self.words, kind)

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        kind = kind_of(self.config)
        told = {**words_of(self.config, kind), "trained_parameters": str(count(self.named))}
        tensors = {table: rows.detach() for table, rows in self.words.rows.items()}
        denoiser = self.backbone.denoiser
        save_method_file(
            folder / RESULT, "textual-inversion", tensors, denoiser, {**facts, **told}, role=kind
        )


class TextualInversion:
    """The method: a content's word and a style's in one prompt."""

    name, doc = (
        "textual-inversion",
        "new words for content and style, the model untouched (Textual Inversion)",
    )
    jobs = (InversionContentConfig, InversionStyleConfig)
    triggers = True
    by_sample = False
    two_dials = True

    def task(self, config: Any) -> InversionTask:
        return InversionTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(InversionContentConfig), pair.train(InversionStyleConfig)
        return {"content_file": content, "style_file": style}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        vectors = {kind: read_vectors(opened, backbone) for kind, opened in files.items()}
        words = {
            kind: numbered(trigger_in(opened, kind), len(next(iter(vectors[kind].values()))))
            for kind, opened in files.items()
        }
        return AttachedWords(backbone, words, vectors)
