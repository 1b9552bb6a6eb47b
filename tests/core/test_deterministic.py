"""Deterministic kernels while a loop runs, and nothing that costs time besides."""

import torch

from b4m.core.process import deterministic


def fills() -> int:
    """How often memory is filled around one norm."""
    x = torch.randn(2, 8)
    with torch.profiler.profile() as found:
        torch.nn.functional.layer_norm(x, (8,))
    return sum(event.count for event in found.key_averages() if event.key == "aten::fill_")


def test_no_memory_is_filled_that_is_written_next():
    filled = torch.utils.deterministic.fill_uninitialized_memory
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled() and fills() == 0
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert fills() > 0, "as torch would have it"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == filled
