"""What a score is: cosine alignment, diversity between seeds, and bootstrap intervals over pairs.

Arithmetic only, over feature tensors that somebody else made (`extractors`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class Interval(NamedTuple):
    """A mean and the ends of its interval; both ends are nan where one pair says nothing about the spread."""

    mean: float
    low: float
    high: float


def alignment(features: Tensor, references: Tensor) -> Tensor:
    """Cosine of each picture (k, d) with each reference (j, d), averaged over the references: (k,).

    Paper, Sec. 5 and Table 1: content alignment with DINOv2 features of the content's pictures, style alignment
    with CLIP features of the style's, prompt alignment with the CLIP features of one text (j = 1).
    Raises ValueError for anything but two matrices of one width, neither empty.
    """
    if features.dim() != 2 or references.dim() != 2 or features.shape[1] != references.shape[1]:
        raise ValueError(
            f"features {tuple(features.shape)} and references {tuple(references.shape)} do not fit"
        )
    if not len(features) or not len(references):
        raise ValueError(f"{len(features)} pictures and {len(references)} references: one each at least")
    return (F.normalize(features.float(), dim=1) @ F.normalize(references.float(), dim=1).T).mean(1)


def diversity(features: Tensor) -> float:
    """1 - mean cosine over all pairs of pictures (k, d) that differ in their seed only: 0 when all are alike.

    Raises ValueError for fewer than two pictures.
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"features {tuple(features.shape)}: diversity needs two pictures or more")
    unit = F.normalize(features.double(), dim=1)
    count = len(unit)
    total = unit.sum(0).square().sum() - unit.square().sum()  # of both orders of every pair
    return 1.0 - float(total) / (count * (count - 1))


def interval(
    values: Sequence[float], resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of `values` (pairs,) and its percentile bootstrap interval over pairs; the same for the same seed.

    One pair has no spread to resample: its ends are nan. Pairs that share a content or a style are taken as
    independent. Raises ValueError for no value, or one that is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"values of shape {array.shape}: expected one finite number per pair")
    if array.size == 1:
        return Interval(float(array[0]), float("nan"), float("nan"))
    rows = np.random.default_rng(seed).integers(array.size, size=(resamples, array.size))
    low, high = np.quantile(array[rows].mean(1), ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(array.mean()), float(low), float(high))


def paired_interval(
    a: Sequence[float], b: Sequence[float], resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """`interval` of the differences a - b, pair by pair: a (pairs,) and b (pairs,) in one order of the pairs."""
    one, two = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"{one.shape} and {two.shape} values cannot be paired")
    return interval(one - two, resamples, seed, level)
