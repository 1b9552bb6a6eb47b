"""Eq. 12 of the paper: noise and timesteps per sample, the denoising loss per sample, and its sum over samples."""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ..core.seeds import seeded

Denoiser = Callable[
    [Tensor, Tensor], Tensor
]  # (noisy (samples, c, h, w), timesteps (samples,)) -> prediction


def draw_noise(
    seed: int, step: int, samples: Sequence[int], shape: Sequence[int], train_timesteps: int
) -> tuple[Tensor, Tensor]:
    """Noise (samples, *shape) float32, timesteps (samples,) int64; each is a function of (seed, step, sample)."""
    noise, timesteps = [], []
    for sample in samples:
        generator = seeded("draw", seed, step, sample)
        timesteps.append(torch.randint(train_timesteps, (), generator=generator))
        noise.append(torch.randn(tuple(shape), generator=generator))
    return torch.stack(noise), torch.stack(timesteps)


def _at(alphas_cumprod: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t and sigma_t of the variance-preserving process, (samples, 1, 1, 1) float32."""
    alpha_bar = alphas_cumprod.to(timesteps.device, torch.float32)[timesteps][:, None, None, None]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = alpha_t x_0 + sigma_t noise. (samples, c, h, w); alphas_cumprod (train_timesteps,)."""
    alpha, sigma = _at(alphas_cumprod, timesteps)
    return alpha * latents + sigma * noise


def regression_target(
    latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """What the denoiser should say, (samples, c, h, w): the noise, or v = alpha_t noise - sigma_t x_0.

    Raises ValueError for another prediction type than "epsilon" and "v_prediction".
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha, sigma = _at(alphas_cumprod, timesteps)
        return alpha * noise - sigma * latents
    raise ValueError(f"prediction type {prediction_type!r}: epsilon and v_prediction are known")


def min_snr_weight(timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str, gamma: float) -> Tensor:
    """Min-SNR weights (samples,): min(snr, gamma) / snr for epsilon, / (snr + 1) for v (Hang et al. 2023)."""
    alpha, sigma = _at(alphas_cumprod, timesteps)
    snr = ((alpha / sigma) ** 2)[:, 0, 0, 0]
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def sample_losses(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of each sample in float32: (samples, c, h, w) twice -> (samples,).

    mask (samples, 1, h, w): what each latent counts in its sample's mean.
    """
    errors = (prediction.float() - target.float()).square()
    if mask is None:
        return errors.flatten(1).mean(1)
    return (mask * errors).flatten(1).mean(1) / mask.flatten(1).mean(1)


def terms(
    losses: Tensor,
    is_target: Tensor,
    partner_share: float = 1.0,
    is_prior: Tensor | None = None,
    prior_weight: float = 1.0,
) -> Tensor:
    """The terms of the loss: the means over the target's and over the partner samples (2,), those of Eq. 12; beside
    them, with `is_prior` (3,), the mean over the samples of the prior (Ruiz et al. 2023, Eq. 2) times `prior_weight`.

    losses (samples,); is_target, is_prior (samples,) bool; the term of no samples is 0. partner_share: what the
    second counts where a step's partners are spread over its micro-batches. No indexing with a mask and no number that
    becomes a tensor of the device, either of which makes the host wait for it.
    """
    members = _members(is_target, is_prior)
    means = losses.masked_fill(~members, 0.0).sum(1) / members.sum(1).clamp(min=1)
    return torch.stack([means[0], partner_share * means[1], *(prior_weight * mean for mean in means[2:])])


def sample_weights(
    is_target: Tensor,
    partner_share: float = 1.0,
    is_prior: Tensor | None = None,
    prior_weight: float = 1.0,
) -> Tensor:
    """What each sample counts in the loss (samples,) float32: its term's share over the term's samples, see `terms`."""
    members = _members(is_target, is_prior)
    weights = members / members.sum(1, keepdim=True).clamp(min=1)
    shares = weights.new_tensor([1.0, partner_share, prior_weight][: len(members)])
    return (weights * shares[:, None]).sum(0)


def _members(is_target: Tensor, is_prior: Tensor | None) -> Tensor:
    """(terms, samples) bool: which samples belong to which term."""
    if is_prior is None:
        return torch.stack([is_target, ~is_target])
    return torch.stack([is_target, ~(is_target | is_prior), is_prior])


def in_parts(shapes: Sequence[Hashable], at_once: int | None) -> list[list[int]]:
    """The samples of a batch, by their places, in runs of one shape and of at most `at_once` (None: of any length).

    Their gradients add up to the batch's.
    """
    places: dict[Hashable, list[int]] = {}
    for place, shape in enumerate(shapes):
        places.setdefault(shape, []).append(place)
    at_once = at_once or len(shapes)
    return [same[i : i + at_once] for same in places.values() for i in range(0, len(same), at_once)]


def objective(
    denoiser: Denoiser,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    weights: Tensor,
    alphas_cumprod: Tensor,
    prediction_type: str,
    snr_gamma: float | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Eq. 12 on one batch, or on a part of it: (loss scalar, losses (samples,) detached), both float32.

    latents, noise (samples, c, h, w); timesteps (samples,); weights (samples,): `sample_weights` of these samples;
    mask (samples, 1, h, w): what each latent counts.
    The routing is the denoiser's part.
    """
    prediction = denoiser(add_noise(latents, noise, timesteps, alphas_cumprod), timesteps)
    target = regression_target(latents, noise, timesteps, alphas_cumprod, prediction_type)
    losses = sample_losses(prediction, target, mask)
    if snr_gamma is not None:
        losses = losses * min_snr_weight(timesteps, alphas_cumprod, prediction_type, snr_gamma)
    return (weights * losses).sum(), losses.detach()
