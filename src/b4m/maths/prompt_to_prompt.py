"""Prompt-to-prompt (Hertz et al. 2022, arXiv 2208.01626): an edited image attends as its source does."""

from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor


def alignment(source: Sequence[int], target: Sequence[int]) -> Tensor:
    """Where each token of the target stands in the source, (len(target),) int64; -1 for what has been added."""
    found = torch.full((len(target),), -1)
    for block in SequenceMatcher(None, source, target, autojunk=False).get_matching_blocks():
        found[block.b : block.b + block.size] = torch.arange(block.a, block.a + block.size)
    return found


def refine(source: Tensor, target: Tensor, places: Tensor) -> Tensor:
    """Cross-attention (..., queries, tokens) of the target: the source's for tokens that both have (refinement)."""
    return torch.where(places >= 0, source[..., places.clamp(min=0)], target)
