"""Distillation as equations: which step a timestep falls to, and a path beside Euler steps written out."""

import torch
from diffusers import EulerDiscreteScheduler

from b4m.maths.composing import BASE, composed_predictions
from b4m.maths.distillation import guided, place, walk


def test_timesteps_fall_to_the_steps_of_a_path_in_equal_shares():
    steps = place(torch.arange(1000), 25, 1000)
    assert steps[0] == 24 and steps[999] == 0, "a path begins with noise"
    assert torch.equal(steps.bincount(), torch.full((25,), 40))


def test_a_path_follows_guidance_against_the_base():
    scheduler = EulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    noise, asked = torch.randn(2, 1, 3, 3), composed_predictions(1, 1)
    told = []

    def predicts(factor):
        def predict(state, timestep, terms):
            told.append((factor, terms))
            return factor * state

        return predict

    states, answers, empties = walk(predicts(0.5), predicts(0.2), noise, asked, 2.0, scheduler)
    assert told == [(0.5, asked), (0.2, BASE)] * 4
    x = noise * scheduler.init_noise_sigma
    for step, sigma in enumerate(scheduler.sigmas[:4]):
        state = x / (sigma**2 + 1) ** 0.5
        assert torch.allclose(states[:, step], state, atol=1e-5)
        assert torch.allclose(answers[:, step], 0.5 * state) and torch.allclose(empties[:, step], 0.2 * state)
        x = x + guided(0.2 * state, 0.5 * state, 2.0) * (scheduler.sigmas[step + 1] - sigma)
