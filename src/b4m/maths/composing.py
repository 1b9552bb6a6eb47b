"""What a sample of the denoiser's answer is made of: weighted predictions v(c, s) at strengths of content and style.

v(0, 0) is the base model's prediction, v(1, 0) with the content alone, v(0, 1) with the style alone. An answer is a sum
of terms whose weights add up to 1:

    weights      v(c, s)                                                      one prediction
    predictions  v(0,0) + c [v(1,0) - v(0,0)] + s [v(0,1) - v(0,0)]           three

The second has no interaction of the two factors: neither the block B D nor what the layers between make of both. More
files than two have a strength each after these.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

Strength = float | Sequence[float]  # of all samples of a batch, or of each
# A weight, and the strengths of content, style and any more at which the prediction is made.
Term = tuple[float, ...]
Terms = tuple[Term, ...]
BASE: Terms = ((1.0, 0.0, 0.0),)  # the base model's own prediction


def composed_weights(*strengths: float) -> Terms:
    """v(content, style, ...): all in the weights at once, as in the paper."""
    return ((1.0, *strengths),)


def composed_predictions(*strengths: float) -> Terms:
    """v(0,0) + content [v(1,0) - v(0,0)] + style [v(0,1) - v(0,0)] + ..., without the terms of weight 0."""
    base, files = 1.0, range(len(strengths))
    for strength in strengths:
        base -= strength
    weights = (base, *strengths)
    at = ((0.0,) * len(strengths), *(tuple(float(file == on) for file in files) for on in files))
    return tuple((weight, *which) for weight, which in zip(weights, at, strict=True) if weight)


COMPOSING = {"weights": composed_weights, "predictions": composed_predictions}


def runs(content: Strength, style: Strength, samples: int) -> Iterator[tuple[slice, float, float]]:
    """Neighbouring samples of equal strengths: (which, content strength, style strength).

    Raises ValueError for strengths of another number of samples.
    """
    pairs = list(zip(*(_each(strength, samples) for strength in (content, style)), strict=True))
    first = 0
    for (c, s), group in groupby(pairs):
        size = len(list(group))
        yield slice(first, first + size), c, s
        first += size


def _each(strength: Strength, samples: int) -> Sequence[float]:
    if not isinstance(strength, Sequence):
        return [strength] * samples
    if len(strength) != samples:
        raise ValueError(f"{len(strength)} strengths for a batch of {samples} samples")
    return strength
