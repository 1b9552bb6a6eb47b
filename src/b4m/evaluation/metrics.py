"""What a score is: cosine alignment, diversity between seeds, and bootstrap intervals.

Arithmetic only, over feature tensors that somebody else made (`extractors`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor


class Interval(NamedTuple):
    """A mean and the ends of its interval; both ends are nan where a single value says nothing about the spread."""

    mean: float
    low: float
    high: float


def alignment(features: Tensor, references: Tensor) -> Tensor:
    """Cosine of each image (k, d) with each reference (j, d), averaged over the references: (k,).

    Paper, Sec. 5 and Table 1: content alignment with DINOv2 features of the content's images, style alignment
    with CLIP features of the style's, prompt alignment with the CLIP features of one text (j = 1).
    Raises ValueError for anything but two matrices of one width, neither empty.
    """
    if features.dim() != 2 or references.dim() != 2 or features.shape[1] != references.shape[1]:
        raise ValueError(
            f"features {tuple(features.shape)} and references {tuple(references.shape)} do not fit"
        )
    if not len(features) or not len(references):
        raise ValueError(f"{len(features)} images and {len(references)} references: one each at least")
    return (F.normalize(features.float(), dim=1) @ F.normalize(references.float(), dim=1).T).mean(1)


def diversity(features: Tensor) -> float:
    """1 - mean cosine over all pairs of images (k, d) that differ in their seed only: 0 when all are alike.

    Raises ValueError for fewer than two images.
    """
    if features.dim() != 2 or len(features) < 2:
        raise ValueError(f"features {tuple(features.shape)}: diversity needs two images or more")
    unit = F.normalize(features.double(), dim=1)
    count = len(unit)
    total = unit.sum(0).square().sum() - unit.square().sum()  # of both orders of every pair
    return 1.0 - float(total) / (count * (count - 1))


def interval(
    values: Sequence[float], resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean and percentile bootstrap interval of independent `values`, such as images of one pair that differ in seed.

    One value has no spread to resample: its ends are nan. Raises ValueError for no value, or one that is not finite.
    """
    array = _finite(values)
    rows = np.random.default_rng(seed).integers(array.size, size=(resamples, array.size))
    return _percentiles(array, array[rows].mean(1), level)


def crossed_interval(
    values: Mapping[tuple[str, str], float], resamples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over pairs, value by (content, style), and its interval by a bootstrap over contents and styles.

    Pairs that share a content or a style are not independent. So contents are drawn with replacement, styles likewise,
    and a pair counts as often as its content was drawn times as often as its style: Owen 2007, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1(2), which rather gives too wide an interval than too narrow a one. Pairs
    that `values` lacks weigh nothing, and a draw that meets none of `values` is left out.
    The interval speaks of contents and styles like these; with one content, of this content with styles like these, and
    with one style likewise. One pair has no spread to resample: its ends are nan. Raises ValueError as `interval` does.
    """
    array = _finite(list(values.values()))
    (contents, rows), (styles, columns) = (
        np.unique(names, return_inverse=True) for names in zip(*values, strict=True)
    )
    there, total = np.zeros((2, len(contents), len(styles)))
    there[rows, columns], total[rows, columns] = 1, array
    rng = np.random.default_rng(seed)
    # How often each content and each style is drawn: (resamples, contents), (resamples, styles).
    by_content, by_style = (rng.multinomial(n, [1 / n] * n, size=resamples) for n in there.shape)
    weight, weighed = (((by_content @ grid) * by_style).sum(1) for grid in (there, total))
    return _percentiles(array, weighed[weight > 0] / weight[weight > 0], level)


def _finite(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"values of shape {array.shape}: expected one finite number or more")
    return array


def _percentiles(values: np.ndarray, resampled: np.ndarray, level: float) -> Interval:
    """The mean of `values` between percentiles of its resampled means (resamples,)."""
    if values.size == 1:
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = np.quantile(resampled, ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(values.mean()), float(low), float(high))
