"""The closed-form merge: exact on the concepts' tokens, the least elsewhere."""

import torch

from b4m.maths.closed_form import closed_form


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def test_it_is_exact_on_the_concepts_tokens_and_least_on_the_others():
    C, V = drawn(5, 16), drawn(5, 7)
    C_reg = drawn(200, 16) * torch.linspace(0.1, 5, 16, dtype=torch.float64)  # some directions matter more
    dW = closed_form(C, C_reg, V)
    assert dW.shape == (7, 16) and (dW @ C.T - V.T).abs().max() < 1e-8
    least = (dW @ C_reg.T).norm()
    free = torch.linalg.svd(C).Vh[5:]  # directions that no concept's token has
    for seed in range(5):
        other = dW + 0.1 * drawn(7, seed + 2)[:, :1] * free[seed % len(free)]
        assert (other @ C.T - V.T).abs().max() < 1e-8 and (other @ C_reg.T).norm() > least


def test_what_changes_nothing_merges_to_nothing_and_few_captions_do():
    C = drawn(3, 32)
    assert not closed_form(C, drawn(200, 32), torch.zeros(3, 4, dtype=torch.float64)).any()
    V = drawn(3, 4)
    assert (
        closed_form(C, drawn(10, 32), V) @ C.T - V.T
    ).abs().max() < 1e-6  # fewer than dimensions: the ridge


def test_identical_concepts_are_that_concept_on_its_tokens():
    W, C = drawn(4, 16), drawn(6, 16)
    assert torch.allclose(closed_form(C, drawn(100, 16), C @ W.T) @ C.T, W @ C.T, atol=1e-8)
