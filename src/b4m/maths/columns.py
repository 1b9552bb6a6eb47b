"""Which output columns of a low-rank update matter, and how two updates share them (UnZipLoRA, arXiv 2412.04465).

dW = U D, U (m, r), D (r, n). Its columns are those of dW^T (n, m), which multiplies tokens from the right: column i is
row i of U.
"""

import math

import torch
from torch import Tensor


def column_scores(up: Tensor, down: Tensor, grad_up: Tensor, grad_down: Tensor) -> Tensor:
    """(m,) of U, D and their gradients: sum_j |S_ij|, S = dW (G_U D + U G_D), a weight times how it would change."""
    S = (up @ down) * (grad_up @ down + up @ grad_down)
    return S.abs().sum(1)


def best(scores: Tensor, share: float, taken: Tensor | None = None) -> Tensor:
    """(m,) bool: the `share` of the columns with the highest scores, at least one, none of those `taken` (m,) bool.

    Of equal scores the first; fewer where fewer are free.
    """
    count = max(1, int(share * len(scores)))
    if taken is not None:
        scores = scores.masked_fill(taken, -math.inf)
        count = min(count, int((~taken).sum()))
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.argsort(descending=True, stable=True)[:count]] = True
    return chosen
