"""Stacks: layers see what moves their stack, stacks get what the layers got, and no number changes but by rounding."""

import torch

from b4m.maths.riemannian import RiemannianAdamW
from b4m.maths.stacks import Stacks

SHAPES = (
    (5, 3, 4),
    (6, 4, 6),
    (5, 3, 4),
    (5, 3, 2),
)  # (m - d_out, r, n - d_in); the last shares B's shape alone


def layers(dtype: torch.dtype = torch.float32) -> list[tuple[torch.nn.Parameter, torch.nn.Parameter]]:
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(
            torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
            for shape in ((a, r), (r, b))
        )
        for a, r, b in SHAPES
    ]


def backward(pairs) -> None:
    sum((B @ D - 1).square().sum() for B, D in pairs).backward()


def test_pairs_of_one_shape_are_one_pair():
    pairs = layers()
    values = [[factor.detach().clone() for factor in pair] for pair in pairs]
    stacks = Stacks(pairs)
    assert [tuple(B.shape) for B, _ in stacks.pairs] == [(2, 5, 3), (1, 6, 4), (1, 5, 3)]
    assert [tuple(D.shape) for _, D in stacks.pairs] == [(2, 3, 4), (1, 4, 6), (1, 3, 2)]
    assert [*zip(stacks.factors["content"], stacks.factors["style"], strict=True)] == stacks.pairs
    for pair, old in zip(pairs, values, strict=True):
        assert all(torch.equal(factor, value) for factor, value in zip(pair, old, strict=True))
    with torch.no_grad():
        stacks.pairs[0][0][1].fill_(7.0)
        pairs[0][0].fill_(6.0)
    assert (pairs[2][0] == 7).all() and (stacks.pairs[0][0][0] == 6).all(), "one memory"
    assert sum(parameter.numel() for parameter in stacks.parameters) == sum(
        factor.numel() for pair in pairs for factor in pair
    )


def test_gradients_are_gathered_and_given_back():
    pairs, alone = layers(), layers()
    stacks = Stacks(pairs)
    for _ in range(2):  # two passes, one step: gradients add up
        backward(pairs)
        backward(alone)
    stacks.gather()
    for parameter in stacks.parameters:
        parameter.grad.mul_(0.5)  # as clipping does
    for pair, other in zip(pairs, alone, strict=True):
        for factor, expected in zip(pair, other, strict=True):
            assert torch.equal(factor.grad, 0.5 * expected.grad)
    stacks.zero_grad()
    assert all(factor.grad is None for pair in [*pairs, *stacks.pairs] for factor in pair)


def test_an_optimizer_of_stacks_moves_the_layers_as_one_of_layers_does():
    for make in (
        RiemannianAdamW,
        lambda pairs: torch.optim.AdamW([factor for pair in pairs for factor in pair]),
    ):
        # Double: Adam makes rounding large where a gradient is small, and kernels round apart on every kind of CPU.
        pairs, alone = layers(torch.float64), layers(torch.float64)
        stacks = Stacks(pairs)
        stacked, plain = make(stacks.pairs), make(alone)
        for _ in range(5):
            for factors in (pairs, alone):
                for parameter in (factor for pair in factors for factor in pair):
                    parameter.grad = None
                backward(factors)
            stacks.gather()
            stacked.step()
            plain.step()
        for pair, other, start in zip(pairs, alone, layers(torch.float64), strict=True):
            for factor, expected, before in zip(pair, other, start, strict=True):
                torch.testing.assert_close(factor, expected, rtol=1e-10, atol=1e-12)
                assert not torch.equal(factor, before)
