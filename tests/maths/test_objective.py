"""Eq. 12: draws are functions of (seed, step, sample), and the loss is the sum that the equation writes."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from b4m.maths.objective import (
    add_noise,
    draw_noise,
    in_parts,
    min_snr_weight,
    objective,
    regression_target,
    sample_losses,
    sample_weights,
    terms,
)

SHAPE = (4, 8, 8)
SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear")
ALPHAS = SCHEDULER.alphas_cumprod


def test_each_sample_of_a_draw_depends_on_seed_step_and_sample_alone():
    noise, timesteps = draw_noise(1, 2, [0, 1, 2], SHAPE, 1000)
    alone, its_timestep = draw_noise(1, 2, [2], SHAPE, 1000)
    assert torch.equal(noise[2], alone[0]) and timesteps[2] == its_timestep[0]
    for other in (
        draw_noise(2, 2, [2], SHAPE, 1000),
        draw_noise(1, 3, [2], SHAPE, 1000),
        draw_noise(1, 2, [1], SHAPE, 1000),
    ):
        assert not torch.equal(alone, other[0])


def test_draws_ignore_and_leave_the_global_generator():
    torch.manual_seed(0)
    first, state = draw_noise(1, 2, [0], SHAPE, 1000), torch.get_rng_state()
    torch.manual_seed(5)
    assert torch.equal(first[0], draw_noise(1, 2, [0], SHAPE, 1000)[0])
    torch.manual_seed(0)
    draw_noise(1, 2, [0], SHAPE, 1000)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_are_standard_normal_and_cover_all_timesteps():
    noise, timesteps = draw_noise(0, 0, range(2000), (4, 4, 4), 10)
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert torch.bincount(timesteps, minlength=10).min() > 140 and timesteps.max() == 9


def batch(samples=5):
    noise, timesteps = draw_noise(3, 0, range(samples), SHAPE, 1000)
    return torch.randn(samples, *SHAPE, generator=torch.Generator().manual_seed(1)), noise, timesteps


def test_noise_and_velocity_are_those_of_diffusers():
    latents, noise, timesteps = batch()
    torch.testing.assert_close(
        add_noise(latents, noise, timesteps, ALPHAS), SCHEDULER.add_noise(latents, noise, timesteps)
    )
    torch.testing.assert_close(
        regression_target(latents, noise, timesteps, ALPHAS, "v_prediction"),
        SCHEDULER.get_velocity(latents, noise, timesteps),
    )
    assert torch.equal(regression_target(latents, noise, timesteps, ALPHAS, "epsilon"), noise)
    with pytest.raises(ValueError, match="sample"):
        regression_target(latents, noise, timesteps, ALPHAS, "sample")


@pytest.mark.parametrize("targets", [1, 2, 4])
def test_loss_is_equation_12(targets):
    losses = torch.rand(5, generator=torch.Generator().manual_seed(0))
    is_target = torch.arange(5) < targets
    partners = losses[targets:]
    expected = losses[:targets].sum() / targets + sum(partners) / len(partners)
    for way in (losses, is_target), (losses.flip(0), is_target.flip(0)):  # a style run has its targets last
        torch.testing.assert_close(terms(*way).sum(), expected)
        torch.testing.assert_close((sample_weights(way[1]) * way[0]).sum(), expected)


@pytest.mark.parametrize("at_once", [1, 2, 4, 5, 9])
def test_parts_are_all_samples_in_order(at_once):
    parts = in_parts(["square"] * 5, at_once)
    assert sum(parts, []) == list(range(5)) and max(map(len, parts)) == min(at_once, 5)


def test_parts_have_one_shape_each_and_keep_the_order_within_it():
    assert in_parts("abaab", None) == [[0, 2, 3], [1, 4]]
    assert in_parts("abaab", 2) == [[0, 2], [3], [1, 4]]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_denoiser_has_no_loss_and_a_constant_one_the_targets_square(prediction_type):
    latents, noise, timesteps = batch()
    target = regression_target(latents, noise, timesteps, ALPHAS, prediction_type)
    is_target = torch.tensor([True, True, False, False, False])
    args = (latents, noise, timesteps, sample_weights(is_target), ALPHAS, prediction_type)
    assert objective(lambda noisy, t: target, *args)[0] == 0
    loss, losses = objective(lambda noisy, t: torch.zeros_like(noisy), *args)
    torch.testing.assert_close(losses, target.square().mean((1, 2, 3)))
    torch.testing.assert_close(loss, losses[:2].mean() + losses[2:].mean())


def test_the_denoiser_sees_the_noisy_latents():
    latents, noise, timesteps = batch()
    seen = {}

    def denoiser(noisy, t):
        seen.update(noisy=noisy, t=t)
        return noisy

    objective(denoiser, latents, noise, timesteps, torch.ones(5), ALPHAS, "epsilon")
    assert torch.equal(seen["noisy"], add_noise(latents, noise, timesteps, ALPHAS)) and torch.equal(
        seen["t"], timesteps
    )


def test_losses_are_float32_whatever_the_model_speaks():
    prediction = torch.full((1, *SHAPE), 300.0, dtype=torch.float16)  # its square is beyond float16
    losses = sample_losses(prediction, torch.zeros(1, *SHAPE, dtype=torch.float16))
    assert losses.dtype == torch.float32 and losses[0] == 90000


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weight(prediction_type):
    timesteps = torch.tensor([0, 10, 500, 999])
    snr = compute_snr(SCHEDULER, timesteps)
    expected = snr.clamp(max=5) / (snr if prediction_type == "epsilon" else snr + 1)
    weights = min_snr_weight(timesteps, ALPHAS, prediction_type, 5.0)
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=0)
    latents, noise, _ = batch(4)
    args = (
        lambda noisy, t: torch.zeros_like(noisy),
        latents,
        noise,
        timesteps,
        torch.ones(4),
        ALPHAS,
        prediction_type,
    )
    plain, weighed = objective(*args)[1], objective(*args, snr_gamma=5.0)[1]
    torch.testing.assert_close(weighed, plain * weights)


def test_a_mask_makes_the_mean_one_over_what_counts():
    prediction, target = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(3, 1, *SHAPE[1:])
    mask[0, :, :2], mask[1], mask[2, :, 0, 0] = 1, 0.5, 0.25
    prediction.requires_grad_()
    losses = sample_losses(prediction, target, mask)
    errors = (prediction - target).square()
    expected = torch.stack([errors[0, :, :2].mean(), errors[1].mean(), errors[2, :, 0, 0].mean()])
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert prediction.grad is not None and torch.equal(prediction.grad != 0, (mask > 0).expand_as(prediction))


def test_a_batch_counts_what_its_mask_says():
    latents, noise, timesteps = batch()
    mask = torch.zeros(5, 1, *SHAPE[1:])
    mask[..., 0] = 1
    args = (latents, noise, timesteps, torch.ones(5), ALPHAS, "epsilon")

    def off(columns: int) -> torch.Tensor:
        wrong = noise.clone()
        wrong[..., -columns:] += 1
        return objective(lambda noisy, t: wrong, *args, mask=mask)[1]

    assert torch.equal(off(SHAPE[2] - 1), torch.zeros(5)) and (off(SHAPE[2]) > 0.9).all()
