"""Inversion: parts of a prediction, a step there and back, and a trajectory that sampling follows back to the image."""

import pytest
import torch

from b4m.maths.inversion import grid, invert, move, parts
from b4m.maths.objective import add_noise, regression_target

ALPHAS = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_true_prediction_gives_image_and_noise_back_at_any_level(kind):
    image, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([400])
    noisy, said = add_noise(image, noise, t, ALPHAS), regression_target(image, noise, t, ALPHAS, kind)
    for found, wanted in zip(parts(noisy, said, ALPHAS[400], kind), (image, noise), strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)
    for other in (0, 399, 999):
        expected = add_noise(image, noise, torch.tensor([other]), ALPHAS)
        assert torch.allclose(move(noisy, said, ALPHAS[400], ALPHAS[other], kind), expected, atol=1e-4)


def test_the_grid_goes_from_the_image_to_the_last_timestep():
    assert grid(4, 1000).tolist() == [0, 250, 500, 749, 999] and len(grid(50, 1000)) == 51


def test_sampling_follows_the_trajectory_back():
    """Up to the step size: a denoiser that is smooth in x and t."""
    image = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def denoiser(x, t):
        return torch.tanh(x) * (t / 1000 + 0.1)[:, None, None, None]

    errors = []
    for steps in (20, 200):
        timesteps = grid(steps, 1000)
        noisy = invert(denoiser, image, timesteps, ALPHAS, "epsilon")
        assert torch.equal(noisy[:1], image) and len(noisy) == steps + 1
        x = noisy[-1:]
        for now, earlier in zip(timesteps.flip(0)[:-1], timesteps.flip(0)[1:], strict=True):
            x = move(x, denoiser(x, now[None]), ALPHAS[now], ALPHAS[earlier], "epsilon")
        errors.append(float((x - image).abs().max()))
    assert errors[1] < errors[0] / 4 and errors[1] < 0.1
