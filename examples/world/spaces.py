"""Spaces of encoders: pictures and captions as unit vectors, what a picture is taken for, and what it is blind to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

AT_ONCE = 256  # pictures


@torch.no_grad()
def embed(model: PreTrainedModel, pictures: Tensor) -> Tensor:
    """Unit vectors (N, d) of pictures, by the trunk of a classifier."""
    parts = [model.base_model(pixel_values=part).pooler_output.flatten(1) for part in pictures.split(AT_ONCE)]
    return nn.functional.normalize(torch.cat(parts), dim=1)


@torch.no_grad()
def name(model: PreTrainedModel, pictures: Tensor) -> np.ndarray:
    """The number of the class that the head gives each picture."""
    return torch.cat([model(pixel_values=part).logits.argmax(1) for part in pictures.split(AT_ONCE)]).numpy()


@torch.no_grad()
def embed_captions(model: PreTrainedModel, tokenizer, captions: list[str]) -> Tensor:
    """Unit vectors (N, 64) of captions, by the prompt encoder."""
    # Words of a rare style are spelled: with all its looks it can take three signs more than the encoder reads.
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    hidden = model.text_model(**tokens).pooler_output
    return nn.functional.normalize(model.text_projection(hidden), dim=1)


@torch.no_grad()
def embed_for_captions(model: PreTrainedModel, pictures: Tensor) -> Tensor:
    """Unit vectors (N, 64) of pictures, in the space of the captions."""
    parts = [model.vision_model(pixel_values=part).pooler_output for part in pictures.split(AT_ONCE)]
    return nn.functional.normalize(model.visual_projection(torch.cat(parts)), dim=1)


def retrieve(features: Tensor, wanted: np.ndarray, other: np.ndarray, draws: int) -> np.ndarray:
    """What each picture is taken for (draws, N) when it looks for its nearest in a gallery of strangers.

    A gallery holds one picture of every value of `wanted`, drawn at random among the pictures that differ from the
    query in `other`: it has no picture of the query's style to go by when contents are sought, and the reverse.
    """
    rng = np.random.default_rng(0)
    cosines = (features @ features.T).numpy()
    strangers = other[:, None] != other[None]
    values, found = np.unique(wanted), []
    for _ in range(draws):
        scores = []
        for value in values:
            columns = np.flatnonzero(wanted == value)
            keys = np.where(strangers[:, columns], rng.random((len(wanted), len(columns))), -1)
            scores.append(np.take_along_axis(cosines[:, columns], keys.argmax(1)[:, None], 1)[:, 0])
        found.append(values[np.argmax(scores, 0)])
    return np.stack(found)


def blindness(features: Tensor, wanted: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Mean cosine of pairs that share only `wanted`, and of pairs that share only `other`."""
    cosines = (features @ features.T).numpy()
    same, shared = wanted[:, None] == wanted[None], other[:, None] == other[None]
    return {"same": float(cosines[same & ~shared].mean()), "other": float(cosines[~same & shared].mean())}
