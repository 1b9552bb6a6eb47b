"""A second stage by distillation: what the sum of two concepts' predictions says, on its own sampling paths.

The teacher is a sum of terms (`composing`) under a prompt that calls both concepts,

    v*(x_t; p) = v(0,0; p) + w_c [v(1,0; p) - v(0,0; p)] + w_s [v(0,1; p) - v(0,0; p)],

and its paths are drawn with guidance against the base model, v(0,0; 0) + g [v*(x_t; p) - v(0,0; 0)], 0 the empty
prompt. The student, B and D in the weights, is to say v*(x_t; p) under p and v(0,0; 0) under the empty prompt: so that
plain classifier-free guidance with the student on both sides is the teacher's guidance against the base.
"""

from collections.abc import Callable

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from .composing import BASE, Terms

Predict = Callable[[Tensor, Tensor, Terms], Tensor]  # (states as the denoiser reads them, timestep, terms)


def guided(unguided: Tensor, prediction: Tensor, guidance: float) -> Tensor:
    """unguided + guidance (prediction - unguided), all of one shape (Ho and Salimans 2022)."""
    return unguided + guidance * (prediction - unguided)


def place(timesteps: Tensor, steps: int, train_timesteps: int) -> Tensor:
    """Which of a path's `steps`, from noise to image, timesteps (k,) int64 in [0, train_timesteps) fall to: (k,)."""
    return (train_timesteps - 1 - timesteps) * steps // train_timesteps


@torch.no_grad()
def walk(
    prompted: Predict,
    unprompted: Predict,
    noise: Tensor,
    terms: Terms,
    guidance: float,
    scheduler: SchedulerMixin,
) -> tuple[Tensor, Tensor, Tensor]:
    """The teacher's paths from noise (k, c, h, w), one for each sample, over the timesteps that `scheduler` is set to.

    -> states as the denoiser reads them, the sum of `terms` there, and the base model's prediction on the empty prompt,
    each (k, steps, c, h, w) float32. prompted, unprompted: predictions under the samples' prompts and the empty one.
    """
    x, found = noise * scheduler.init_noise_sigma, []
    for timestep in scheduler.timesteps:
        state = scheduler.scale_model_input(x, timestep)
        answer, empty = (
            predict(state, timestep, asked).float()
            for predict, asked in ((prompted, terms), (unprompted, BASE))
        )
        found.append((state, answer, empty))
        x = scheduler.step(guided(empty, answer, guidance), timestep, x).prev_sample
    states, answers, empties = (torch.stack(each, 1) for each in zip(*found, strict=True))
    return states, answers, empties
