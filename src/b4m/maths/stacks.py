"""B and D of layers of one shape as one tensor each: few large tensors to step instead of many small ones."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .plp import FACTORS


class Stacks:
    """Pairs (B, D) of layers, stacked by shape; from now on each layer's factors are views of the stacks.

    pairs: stacked B (k, m - d_out, r) and D (k, r, n - d_in) of k layers each, for an optimizer.
    factors: all stacked B as "content", all stacked D as "style". The layers' devices and dtypes must stay.
    """

    def __init__(self, pairs: Iterable[tuple[nn.Parameter, nn.Parameter]]) -> None:
        by_shape = defaultdict(list)
        for pair in pairs:
            by_shape[tuple((factor.shape, factor.dtype, factor.device) for factor in pair)].append(pair)
        self._members: dict[nn.Parameter, Sequence[nn.Parameter]] = {}
        self.pairs = [tuple(map(self._stack, zip(*of_shape, strict=True))) for of_shape in by_shape.values()]
        self.factors = dict(zip(FACTORS, zip(*self.pairs, strict=True), strict=True))

    def _stack(self, members: Sequence[nn.Parameter]) -> nn.Parameter:
        stack = nn.Parameter(torch.stack([member.detach() for member in members]))
        for member, part in zip(members, stack.detach(), strict=True):
            member.data = part
        self._members[stack] = members
        return stack

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All stacks."""
        return list(self._members)

    def gather(self) -> None:
        """Give the stacks the gradients that the layers' factors have got, which become views of theirs in turn."""
        for stack, members in self._members.items():
            stack.grad = torch.stack([member.grad for member in members])  # pyrefly: ignore[bad-argument-type]
            for member, part in zip(members, stack.grad, strict=True):
                member.grad = part

    def zero_grad(self) -> None:
        for stack, members in self._members.items():
            for parameter in (stack, *members):
                parameter.grad = None
