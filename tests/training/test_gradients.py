"""Norms and clipping as torch does them, to the bit, without a question to the device."""

import pytest
import torch
from torch import nn

from b4m.training.gradients import clip, norms


def parameters() -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(shape)) for shape in ((3, 4), (5,), (2, 2, 2))]
    generator = torch.Generator().manual_seed(0)
    for parameter in made:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return made


@pytest.mark.parametrize("most", [0.5, 1e3])
def test_they_are_torchs(most):
    mine, theirs = parameters(), parameters()
    gradients = [parameter.grad for parameter in mine]
    found = norms(gradients)
    total = nn.utils.get_total_norm([parameter.grad for parameter in theirs])
    assert found[0] == total and found[1:].tolist() == [float(gradient.norm()) for gradient in gradients]
    clip(gradients, found[0], most)
    if total > most:
        nn.utils.clip_grads_with_norm_(theirs, most, total)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_own_norm(bad):
    gradients = [parameter.grad for parameter in parameters()]
    gradients[1][0] = bad
    assert norms(gradients).isfinite().tolist() == [False, True, False, True]
