"""Generators are functions of their key, here and on every machine."""

import torch

from b4m.core.seeds import seeded


def draw(*key) -> list[float]:
    return torch.randn(4, generator=seeded(*key)).tolist()


def test_seeds_are_the_same_on_every_machine():
    assert seeded("draw", 77, 0, 0).initial_seed() == 72263731313077


def test_every_part_of_the_key_counts_and_nothing_else():
    torch.manual_seed(0)
    first, state = draw("a", 1, 2), torch.get_rng_state()
    torch.manual_seed(1)
    assert draw("a", 1, 2) == first
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    others = [draw("b", 1, 2), draw("a", 2, 1), draw("a", 12), draw("a", 1), draw("a", 1, 2, 0)]
    assert first not in others and len({tuple(other) for other in others}) == len(others)
