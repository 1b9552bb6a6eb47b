"""Null-text inversion (Mokady et al. 2022, arXiv 2211.09794): embeddings of nothing that make guidance retrace."""

from collections.abc import Callable

import torch
from torch import Tensor

from .inversion import move

INNER, RATE = 10, 1e-2  # steps of Adam for one timestep at most; its rate at the first timestep
ENOUGH, SLACK = (
    1e-5,
    2e-5,
)  # a loss at which a timestep is done, and what it may be more for each timestep before

Predict = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # (noisy, timestep (1,), embedding of nothing) -> prediction


def guided(without: Tensor, with_prompt: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance."""
    return without + scale * (with_prompt - without)


def retrace(
    predict: Predict,
    predict_prompt: Callable[[Tensor, Tensor], Tensor],
    noisy: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    prediction_type: str,
    nothing: Tensor,
    scale: float,
) -> tuple[Tensor, list[tuple[float, float]]]:
    """Embeddings (steps, tokens, width) of nothing, from the noisiest step on, and the loss before and after each.

    noisy (steps + 1, c, h, w), timesteps (steps + 1,): an inversion without guidance, the image first; nothing
    (1, tokens, width): what they start from; predict_prompt: what the denoiser says with the prompt.
    """
    x, embedding = noisy[-1:], nothing.detach().float()
    found, losses = [], []
    steps = len(timesteps) - 1
    for step in range(steps):
        now, later = timesteps[steps - step], timesteps[steps - step - 1]
        before, after, wanted = alphas_cumprod[now], alphas_cumprod[later], noisy[steps - step - 1][None]
        time = now[None].to(x.device)
        with torch.no_grad():
            prompted = predict_prompt(x, time).float()

        def moved(e: Tensor, x=x, time=time, prompted=prompted, before=before, after=after) -> Tensor:
            said = guided(predict(x, time, e).float(), prompted, scale)
            return move(x, said, before, after, prediction_type)

        embedding, of_step = _fit(moved, embedding, wanted, RATE * (1 - step / 100), ENOUGH + step * SLACK)
        losses.append(of_step)
        found.append(embedding)
        with torch.no_grad():
            x = moved(embedding)
    return torch.cat(found), losses


def _fit(
    moved: Callable[[Tensor], Tensor], start: Tensor, wanted: Tensor, rate: float, enough: float
) -> tuple[Tensor, tuple[float, float]]:
    """The embedding with the least loss among those that Adam passes, and the loss before and after."""
    parameter = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([parameter], lr=max(rate, 1e-5))
    best, least, first = start, float("inf"), None
    for step in range(INNER + 1):
        loss = (moved(parameter) - wanted).square().mean()
        value = float(loss.detach())
        first = value if first is None else first
        if value < least:
            best, least = parameter.detach().clone(), value
        if value < enough or step == INNER:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
    return best, (first or 0.0, least)
