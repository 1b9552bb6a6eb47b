"""Null-text inversion: it never makes a step worse, guidance retraces better with it, without guidance it is idle."""

import torch

from b4m.maths.inversion import grid, invert, move
from b4m.maths.null_text import _fit, guided, retrace

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()
IMAGE = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
NOTHING = torch.zeros(1, 3, 4)


def with_nothing(x, t, e):
    """A denoiser that an embedding (1, 3, 4) steers channel by channel."""
    return 0.5 * torch.tanh(x) + e.mean(1)[..., None, None] * (0.2 + t / 1000)


def with_prompt(x, t):
    return with_nothing(x, t, NOTHING + 0.1)


def traced(scale: float, nulls: torch.Tensor) -> torch.Tensor:
    timesteps = grid(len(nulls), 1000).flip(0)
    x = noisy_of(len(nulls))[-1:]
    for null, now, later in zip(nulls, timesteps[:-1], timesteps[1:], strict=True):
        said = guided(with_nothing(x, now[None], null[None]), with_prompt(x, now[None]), scale)
        x = move(x, said, ALPHAS[now], ALPHAS[later], "epsilon")
    return x


def noisy_of(steps: int) -> torch.Tensor:
    return invert(with_prompt, IMAGE, grid(steps, 1000), ALPHAS, "epsilon")


def test_each_step_gets_no_worse_and_the_image_comes_back_under_guidance():
    steps, scale = 10, 5.0
    given = (noisy_of(steps), grid(steps, 1000), ALPHAS, "epsilon", NOTHING, scale)
    nulls, losses = retrace(with_nothing, with_prompt, *given)
    assert nulls.shape == (steps, 3, 4) and all(after <= before for before, after in losses)
    errors = [
        float((traced(scale, each) - IMAGE).square().mean()) for each in (nulls, NOTHING.repeat(steps, 1, 1))
    ]
    assert errors[0] < errors[1] / 10


def test_the_best_embedding_is_kept_where_the_rate_is_too_high():
    wanted = torch.full((1, 3, 4), 0.3)
    best, (before, after) = _fit(lambda e: e, NOTHING, wanted, 100.0, 0.0)
    assert torch.equal(best, NOTHING) and after == before


def test_without_guidance_nothing_is_idle():
    given = (noisy_of(4), grid(4, 1000), ALPHAS, "epsilon", NOTHING, 1.0)
    nulls, losses = retrace(with_nothing, with_prompt, *given)
    assert torch.equal(nulls, NOTHING.repeat(4, 1, 1)) and all(before == after for before, after in losses)
