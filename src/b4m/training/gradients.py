"""Norms of gradients and clipping to them, while the host asks for no number."""

import torch
from torch import Tensor


def norms(gradients: list[Tensor]) -> Tensor:
    """Of all of them together and, behind it, of each: (1 + gradients,)."""
    each = torch.stack(torch._foreach_norm(gradients))
    return torch.cat([torch.linalg.vector_norm(each)[None], each])


def clip(gradients: list[Tensor], norm: Tensor, most: float) -> None:
    """In place: all scaled to the norm `most` where theirs, `norm` (), is larger; else as they were, to the bit."""
    coefficient = most / (norm + 1e-6)
    torch._foreach_mul_(gradients, coefficient.masked_fill(~(norm > most), 1.0))
