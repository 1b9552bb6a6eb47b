"""A pipeline whose samples answer with sums of predictions, at strengths of their own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from ..backbones.protocol import Backbone
from ..maths.composing import Terms
from .attach import dials


@contextmanager
def composed(backbone: Backbone, samples: Sequence[Terms]) -> Iterator[dict[str, Any] | None]:
    """The `cross_attention_kwargs` under which the denoiser answers each sample with the sum of its terms.

    All terms of a step are one batch. Raises UserError where the attached file cannot follow.
    """
    terms = [(row, *term) for row, terms in enumerate(samples) for term in terms]
    terms.sort(key=lambda term: term[2:])  # equal strengths side by side: the adapter takes them together
    rows, weights, *strengths = zip(*terms, strict=True)
    if len({term[2:] for term in terms}) == 1:
        strengths = [of_file[0] for of_file in strengths]
    arguments = dials(backbone, *strengths)
    if len(terms) == len(samples) and rows == tuple(range(len(samples))):
        yield arguments
        return
    handles = _sum_answers(backbone.denoiser, rows, weights)
    try:
        yield arguments
    finally:
        for handle in handles:
            handle.remove()


def _sum_answers(denoiser: ModelMixin, rows: Sequence[int], weights: Sequence[float]) -> list[Any]:
    """Hooks that give the denoiser sample `rows[i]` as its i-th and add up its answers, the i-th `weights[i]` times."""
    samples, index = max(rows) + 1, torch.tensor(rows)

    def spread(value: Any) -> Any:
        if isinstance(value, Tensor) and value.ndim and len(value) == samples:
            return value[index.to(value.device)]
        return {name: spread(one) for name, one in value.items()} if isinstance(value, Mapping) else value

    def before(_: Any, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return tuple(map(spread, given)), spread(named)

    def after(_: Any, given: tuple, answer: tuple[Tensor]) -> tuple[Tensor]:
        (terms,) = answer
        weighted = terms.float() * torch.tensor(weights, device=terms.device)[:, None, None, None]
        total = weighted.new_zeros(samples, *terms.shape[1:]).index_add_(0, index.to(terms.device), weighted)
        return (total.to(terms.dtype),)

    before_handle = denoiser.register_forward_pre_hook(before, with_kwargs=True)
    return [before_handle, denoiser.register_forward_hook(after)]
