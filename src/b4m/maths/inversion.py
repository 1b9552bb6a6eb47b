"""Deterministic noise of an image: the DDIM process run backwards (Song et al. 2020), for any prediction type."""

from collections.abc import Callable

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (noisy (1, c, h, w), timesteps (1,)) -> prediction


def grid(steps: int, train_timesteps: int) -> Tensor:
    """(steps + 1,) int64: timesteps from 0, the image, to the last, evenly."""
    return torch.linspace(0, train_timesteps - 1, steps + 1).round().long()


def parts(
    noisy: Tensor, prediction: Tensor, alpha_bar: Tensor, prediction_type: str
) -> tuple[Tensor, Tensor]:
    """(image, noise) that a prediction sees in x_t = alpha x_0 + sigma noise. alpha_bar: alpha^2, a number."""
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        return (noisy - sigma * prediction) / alpha, prediction
    return alpha * noisy - sigma * prediction, sigma * noisy + alpha * prediction  # v


def move(noisy: Tensor, prediction: Tensor, before: Tensor, after: Tensor, prediction_type: str) -> Tensor:
    """One DDIM step (eta 0) from noise level alpha_bar `before` to `after`, either way."""
    image, noise = parts(noisy, prediction, before, prediction_type)
    return after.sqrt() * image + (1 - after).sqrt() * noise


@torch.no_grad()
def invert(
    denoiser: Denoiser, latents: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """latents (1, c, h, w) of an image -> its noisy versions (len(timesteps), c, h, w), the first the image itself."""
    found = [latents.float()]
    for now, later in zip(timesteps[:-1], timesteps[1:], strict=True):
        said = denoiser(found[-1], now[None].to(latents.device)).float()
        found.append(move(found[-1], said, alphas_cumprod[now], alphas_cumprod[later], prediction_type))
    return torch.cat(found)
