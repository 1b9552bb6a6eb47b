"""Noise states at which a base model's predictions are looked at: references, noised, or what the base itself draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..backbones.cache import encode
from ..backbones.protocol import Backbone
from ..data.images import Picture
from ..maths.composing import Strength
from ..maths.objective import add_noise, draw_noise
from .attach import dials
from .sample import sample

STEPS = 25  # of the path whose states are taken
OURS = ("cross_attention_kwargs", "return_dict")  # what `predict` says itself


@dataclass(frozen=True)
class States:
    """Samples at one noise level."""

    timestep: float
    noisy: Tensor  # (k, c, h, w), as the denoiser reads it
    given: Mapping[str, Any]  # the rest of its call


@torch.no_grad()
def predict(backbone: Backbone, states: States, content: Strength, style: Strength) -> Tensor:
    """v(content, style) (k, c, h, w) with what is attached. Raises UserError where its dials cannot turn apart."""
    arguments = {
        **states.given,
        "cross_attention_kwargs": dials(backbone, content, style),
        "return_dict": False,
    }
    return backbone.denoiser(states.noisy, states.timestep, **arguments)[0]


def noised(
    backbone: Backbone, images: Sequence[Picture], prompts: Sequence[str], levels: int, seed: int = 0
) -> list[States]:
    """Reference images of one size, a prompt each, under noise of their own, at `levels` timesteps evenly spaced."""
    device, train_timesteps = backbone.denoiser.device, len(backbone.alphas_cumprod)
    cache = encode(backbone, images, prompts, device)
    latents = torch.stack(list(cache.latents))
    given = backbone.arguments(cache.conditions(torch.arange(len(images), device=device)))
    found = []
    for level in range(levels):
        timestep = int((level + 0.5) * train_timesteps / levels)
        noise, _ = draw_noise(seed, level, range(len(images)), latents.shape[1:], train_timesteps)
        times = torch.full((len(images),), timestep, device=device)
        noisy = add_noise(latents, noise.to(device), times, backbone.alphas_cumprod)
        found.append(States(timestep, noisy.to(backbone.denoiser.dtype), given))
    return found


@torch.no_grad()
def drawn(backbone: Backbone, prompts: Sequence[str], seeds: Sequence[int], levels: int) -> list[States]:
    """States on the base model's own way to an image of each prompt and seed, unguided, at `levels` of its steps.

    Raises ValueError where something is attached: it would draw too.
    """
    if backbone.attached is not None:
        raise ValueError("these states are the base model's own: take off what is attached")
    calls: list[tuple[tuple, dict[str, Any]]] = []
    handle = backbone.denoiser.register_forward_pre_hook(
        lambda _, given, named: calls.append((given, named)), with_kwargs=True
    )
    try:
        sample(backbone, prompts, seeds, STEPS, guidance=1.0)
    finally:
        handle.remove()
    chosen = {int((level + 0.5) * STEPS / levels) for level in range(levels)}
    return [
        States(float(timestep), noisy, {name: value for name, value in named.items() if name not in OURS})
        for number, ((noisy, timestep), named) in enumerate(calls)
        if number % STEPS in chosen
    ]
