"""Methods whose words learn: what trains vectors of new words, and puts them on a base model from files."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbones.protocol import Backbone, Conditions
from ..backbones.words import NewWords, vectors_of, widths
from ..core.errors import UserError
from ..data.inputs import Inputs
from ..files.opening import Opened
from ..maths.plp import FACTORS
from .denoising import DenoisingLearner
from .protocol import Batch


def numbered(trigger: str, count: int) -> list[str]:
    """The words of a concept of several vectors, as Diffusers expands its first: snq, snq_1, snq_2 ..."""
    return [trigger, *(f"{trigger}_{number}" for number in range(1, count))]


def initial(backbone: Backbone, words: Mapping[str, str]) -> dict[str, Tensor]:
    """Vectors to start new words from: table -> (words, width), each from a plain word, new word -> plain word."""
    found = [vectors_of(backbone, plain) for plain in words.values()]
    return {name: torch.stack([each[name] for each in found]) for name in widths(backbone)}


class TokenLearner(DenoisingLearner):
    """Vectors of new words learn ("<name>/<table>"); prompts are read anew in every step, with gradients.

    words: new word -> the plain word that it starts as.
    """

    reads_prompts = True

    def __init__(
        self, backbone: Backbone, inputs: Inputs, config: Any, name: str, words: Mapping[str, str]
    ) -> None:
        super().__init__(backbone, inputs, config)
        self.words = NewWords(backbone, list(words), initial(backbone, words))
        self.named = {f"{name}/{table}": rows for table, rows in self.words.rows.items()}

    def prompts(self, batch: Batch) -> list[str]:
        """What each sample is told."""
        return [self.inputs.prompts[image] for image in batch.images.tolist()]

    def conditions(self, batch: Batch) -> Conditions:
        prompts = self.prompts(batch)
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=batch.latents.device)
        dtype = self.backbone.denoiser.dtype
        read = self.backbone.encode_prompts(unique)
        return {**batch.conditions, **{name: value[rows].to(dtype) for name, value in read.items()}}

    def learns_from(self, sample: int) -> set[str]:
        kinds = {name.split("/")[0] for name in self.named}
        shown = "content" if sample < self.inputs.content_samples else "style"
        return {shown} & kinds or kinds


class LearnedWords:
    """The words of a training, for its sample images. kinds: what they stand for, whose dials count."""

    def __init__(self, words: NewWords, *kinds: str) -> None:
        self.words, self.kinds = words, kinds

    def arguments(self, content: float, style: float) -> None:
        dials = {"content": content, "style": style}
        self.words.switch(all(is_on(kind, dials[kind]) for kind in self.kinds))

    def remove(self) -> None:
        self.words.remove()


class AttachedWords:
    """Words from files, each kind's with a dial that is on or off.

    words: kind -> its words; vectors: kind -> table -> (words, width).
    """

    def __init__(
        self,
        backbone: Backbone,
        words: Mapping[str, Sequence[str]],
        vectors: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        self.backbone, self.by_kind, self.vectors = backbone, words, vectors
        self.kinds: tuple[str, ...] = ()
        self.words: NewWords | None = None
        self.show(tuple(words))

    def show(self, kinds: tuple[str, ...]) -> None:
        """Let the base model know the words of these kinds and no others."""
        if kinds == self.kinds:
            return
        self.remove()
        if kinds:
            tables = widths(self.backbone)
            rows = {table: torch.cat([self.vectors[kind][table] for kind in kinds]) for table in tables}
            self.words = NewWords(
                self.backbone, [word for kind in kinds for word in self.by_kind[kind]], rows
            )
        self.kinds = kinds

    def arguments(self, content: float, style: float) -> None:
        dials = {"content": content, "style": style}
        self.show(tuple(kind for kind in self.by_kind if is_on(kind, dials[kind])))

    def prompt_at(self, prompt: str, timestep: float) -> str:
        return prompt

    def remove(self) -> None:
        if self.words is not None:
            self.words.remove()
        self.words, self.kinds = None, ()


def is_on(kind: str, strength: Any) -> bool:
    """Raises UserError for a dial between or beyond: a word is there or it is not."""
    if strength not in (0, 1):
        raise UserError(
            f"{kind} strength {strength}: this file teaches words, which are there or not; give 0 or 1"
        )
    return strength == 1


def check_captions(captions: Sequence[str], trigger: str) -> None:
    """Raises UserError for the caption of an image that lacks the word which is to be learned."""
    if missing := [caption for caption in captions if trigger not in caption.split()]:
        raise UserError(
            f"caption {missing[0][:80]!r}: lacks the trigger word {trigger!r}, of which nothing would be learned"
        )


def read_vectors(
    opened: Opened, backbone: Backbone, prefix: str = "", rows: int | None = None
) -> dict[str, Tensor]:
    """table -> (words, width) of a file; rows: how many words there must be.

    Raises UserError for a file that lacks a table, or of another width.
    """
    found = {}
    for table, width in widths(backbone).items():
        tensor = opened.tensors.get(f"{prefix}{table}")
        fits = tensor is not None and tensor.dim() == 2 and tensor.shape[1] == width and len(tensor)
        if tensor is None or not fits or rows not in (None, len(tensor)):
            held = "no" if tensor is None else str(tuple(tensor.shape))
            raise UserError(
                f"{opened.where}: {held} {prefix}{table} of width {width}, which the text encoder of {backbone.name} "
                "needs; give --base-model as it was in training"
            )
        found[table] = tensor
    return found


def trigger_in(opened: Opened, kind: str) -> str:
    """The word that a file teaches. Raises UserError."""
    trigger = opened.metadata.get(f"b4m.{kind}_trigger", "")
    if kind not in FACTORS or not trigger:
        raise UserError(f"{opened.where}: names no trigger word of a {kind}; train it again")
    return trigger
