"""How far a content and a style each move a prediction, and how far both together are from the sum of their moves."""

from typing import NamedTuple

from torch import Tensor


class Moves(NamedTuple):
    """A number for each sample, (k,) float32; |.|^2 is the mean square, v(c, s) a prediction at strengths c and s."""

    content: Tensor  # |v(1,0) - v(0,0)|^2 / |v(0,0)|^2
    style: Tensor  # |v(0,1) - v(0,0)|^2 / |v(0,0)|^2
    interference: (
        Tensor  # |v(1,1) - v(1,0) - v(0,1) + v(0,0)|^2 / (|v(1,0) - v(0,0)|^2 + |v(0,1) - v(0,0)|^2)
    )


def move(neither: Tensor, moved: Tensor) -> Tensor:
    """|moved - neither|^2 / |neither|^2 of two predictions (k, c, h, w) of the same states: (k,) float32."""
    neither, moved = neither.float(), moved.float()
    return _power(moved - neither) / _power(neither)


def moves(neither: Tensor, content: Tensor, style: Tensor, both: Tensor) -> Moves:
    """Of four predictions (k, c, h, w) of the same states: with neither concept, with either, with both.

    A concept that is a nudge composes: interference goes to zero with the moves. It is 0 where nothing moves.
    """
    neither, content, style, both = (v.float() for v in (neither, content, style, both))
    together = _power(both - content - style + neither)
    apart = _power(content - neither) + _power(style - neither)
    return Moves(move(neither, content), move(neither, style), together / apart.clamp(min=1e-30))


def _power(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(1)
