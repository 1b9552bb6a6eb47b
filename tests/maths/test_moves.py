"""Moves and interference of predictions."""

import pytest
import torch

from b4m.maths.moves import move, moves


def field(seed: int, size: float = 1.0) -> torch.Tensor:
    return size * torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_moves_are_shares_of_the_power_of_each_sample():
    neither = field(0)
    found = moves(neither, 1.5 * neither, neither + 2 * neither, 3.5 * neither)
    torch.testing.assert_close(found.content, torch.full((3,), 0.25))
    torch.testing.assert_close(found.style, torch.full((3,), 4.0))
    assert found.interference.abs().max() < 1e-12  # both together are the sum of the moves
    sizes = torch.tensor([1.0, 2.0, 3.0])[:, None, None, None]
    torch.testing.assert_close(move(neither, neither + sizes * neither), torch.tensor([1.0, 4.0, 9.0]))


def test_interference_is_what_the_sum_of_the_moves_leaves_over():
    neither, c, s, more = field(0), field(1, 0.3), field(2, 0.5), field(3, 0.2)
    found = moves(neither, neither + c, neither + s, neither + c + s + more)
    expected = more.square().mean((1, 2, 3)) / (c.square().mean((1, 2, 3)) + s.square().mean((1, 2, 3)))
    torch.testing.assert_close(found.interference, expected.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_gives_half_precision(dtype):
    big = torch.full((2, 4, 64, 64), 300.0, dtype=dtype)
    found = moves(big, 2 * big, big, 2 * big)
    assert found.content.dtype == torch.float32 and found.content.tolist() == [1, 1]


def test_where_nothing_moves_nothing_interferes():
    assert moves(*[field(0)] * 4).interference.tolist() == [0, 0, 0]
