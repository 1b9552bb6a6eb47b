"""What a sample of the denoiser's answer is made of: weighted predictions v(c, s) at strengths of content and style.

v(0, 0) is the base model's prediction, v(1, 0) with the content alone, v(0, 1) with the style alone. An answer is a sum
of terms whose weights add up to 1:

    weights      v(c, s)                                                      one prediction
    predictions  v(0,0) + c [v(1,0) - v(0,0)] + s [v(0,1) - v(0,0)]           three

The second has no interaction of the two factors: neither the block B D nor what the layers between make of both.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

Strength = float | Sequence[float]  # of all samples of a batch, or of each


class Term(NamedTuple):
    """weight * v(content, style)."""

    weight: float
    content: float
    style: float


Terms = tuple[Term, ...]
BASE: Terms = (Term(1.0, 0.0, 0.0),)  # the base model's own prediction


def composed_weights(content: float, style: float) -> Terms:
    """v(content, style): both factors in the weights at once, as in the paper."""
    return (Term(1.0, content, style),)


def composed_predictions(content: float, style: float) -> Terms:
    """v(0,0) + content [v(1,0) - v(0,0)] + style [v(0,1) - v(0,0)], without the terms of weight 0."""
    terms = (Term(1.0 - content - style, 0.0, 0.0), Term(content, 1.0, 0.0), Term(style, 0.0, 1.0))
    return tuple(term for term in terms if term.weight)


COMPOSING = {"weights": composed_weights, "predictions": composed_predictions}


def runs(content: Strength, style: Strength, samples: int) -> Iterator[tuple[slice, float, float]]:
    """Neighbouring samples of equal strengths: (which, content strength, style strength).

    Raises ValueError for strengths of another number of samples.
    """
    pairs = list(zip(*(each(strength, samples) for strength in (content, style)), strict=True))
    first = 0
    for (c, s), group in groupby(pairs):
        size = len(list(group))
        yield slice(first, first + size), c, s
        first += size


def each(strength: Strength, samples: int) -> Sequence[float]:
    """A strength for each of `samples`. Raises ValueError for those of another number."""
    if not isinstance(strength, Sequence):
        return [strength] * samples
    if len(strength) != samples:
        raise ValueError(f"{len(strength)} strengths for a batch of {samples} samples")
    return strength
