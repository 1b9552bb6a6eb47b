"""The base's autoencoder: an encoder that starts as a patch PCA and is trained with its decoder, then frozen.

The start is written, not random: three strided convolutions gather an 8x8 patch and the last one projects it on the
principal components of the world's patches, which is worth thousands of steps. Training then adds what the residual
blocks see beyond the patch, so that no block shows. Once the encoder is frozen the latents are final: the UNet can be
pretrained while the decoder still learns.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import unfold

PATCH = 8
CONSTANT = 30.0  # far above the data: the last group norm becomes a fixed scale and the read-out stays linear
EDGES = 0.02  # weight of the error in differences of neighbouring pixels: edges, and the seams of patches
POWER = 0.02  # weight that holds the latents at unit power, against which the noise on them is measured


def principal_components(pictures: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (192,), components (count, 192), deviations (count,) of the 8x8 patches of `pictures` (N, 3, H, W)."""
    patches = unfold(pictures, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH)
    mean = patches.mean(0)
    variance, vectors = torch.linalg.eigh((patches - mean).T.cov())
    order = variance.argsort(descending=True)[:count]
    return mean, vectors[:, order].T.contiguous(), variance[order].sqrt()


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Set the encoder of `vae` to the principal components of `pictures` (N, 3, H, W) in [-1, 1].

    Latents are scaled by deviation**-0.5, half-way between raw components (where noise drowns all but brightness) and
    whitened ones (where the finest detail weighs as much as the outline), then to unit power over all channels.
    """
    count = vae.config.latent_channels
    mean, components, deviation = principal_components(pictures, count)
    components = components * deviation.rsqrt()[:, None]
    components = components / deviation.mean().sqrt()

    encoder = vae.encoder
    for name, parameter in encoder.named_parameters():
        if "norm" not in name and "resnets" not in name:
            parameter.zero_()
    for name, module in encoder.named_modules():
        # A residual block keeps its random first convolution and adds nothing at the start, so that it can learn.
        if name.endswith(("conv2", "conv_shortcut")):
            module.weight.zero_()
            module.bias.zero_()
    for level in range(3):  # no shortcut where the width stays: the identity
        _identity(encoder.down_blocks[level].resnets[0].conv_shortcut, 3 * 4**level)
    _identity(encoder.conv_in, 3)
    _space_to_depth(encoder.down_blocks[0].downsamplers[0].conv, 3)
    _space_to_depth(encoder.down_blocks[1].downsamplers[0].conv, 12)
    _project(encoder.down_blocks[2].downsamplers[0].conv, components, mean)
    _read_out(encoder, count)
    _write_moments(vae.quant_conv, torch.ones(count), torch.zeros(count))


@torch.no_grad()
def normalise_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold the latents' means and their common scale into the 1x1 convolutions around them: `scaling_factor` stays 1.

    One scale for all channels: a channel that carries more keeps its larger share of the loss.
    """
    z = torch.cat([vae.encode(batch).latent_dist.mode() for batch in pictures.split(64)])
    mean = z.mean((0, 2, 3))
    scale = (z - mean[:, None, None]).square().mean().sqrt()
    count = len(mean)
    inner = vae.quant_conv.weight[:count, :count, 0, 0].diagonal().clone()
    _write_moments(vae.quant_conv, inner / scale, (vae.quant_conv.bias[:count] - mean) / scale)
    weight = vae.post_quant_conv.weight
    vae.post_quant_conv.bias += weight[:, :, 0, 0] @ mean
    weight *= scale


def reconstruction_loss(vae: AutoencoderKL, pictures: Tensor, noise: Tensor) -> Tensor:
    """decoding_loss through encoder and decoder, from latents with `noise` (N, 16, h, w) added.

    With noise the encoder spreads what matters over the latents' power, and the decoder learns to read it off them.
    """
    z = encoded(vae, pictures)
    return decoding_loss(vae, z + noise, pictures) + POWER * (z.square().mean() - 1).square()


def encoded(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    """Latents (N, 16, H / 8, W / 8) of pictures (N, 3, H, W) in [-1, 1]."""
    with torch.autocast(pictures.device.type, torch.bfloat16):
        return vae.encode(pictures).latent_dist.mode().float()


def decoding_loss(vae: AutoencoderKL, latents: Tensor, pictures: Tensor) -> Tensor:
    """Squared error in pixels and absolute error in edges of what is decoded from `latents`."""
    with torch.autocast(latents.device.type, torch.bfloat16):
        out = vae.decode(latents).sample
    error = out.float() - pictures
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.square().mean() + EDGES * edges


def _identity(conv: torch.nn.Conv2d | None, channels: int) -> None:
    if conv is None:
        return
    middle = conv.kernel_size[0] // 2
    for c in range(channels):
        conv.weight[c, c, middle, middle] = 1.0


def _corners():
    return ((i, j) for i in range(2) for j in range(2))


def _space_to_depth(conv: torch.nn.Conv2d, channels: int) -> None:
    """Four pixels of `channels` become one of 4 * channels; a strided convolution of diffusers pads right and below."""
    for k, (i, j) in enumerate(_corners()):
        for c in range(channels):
            conv.weight[k * channels + c, c, i, j] = 1.0


def _patch_order() -> Tensor:
    """Index into an unfolded patch (channel, row, column) for each (last corner, gathered channel): (4, 48)."""
    index = torch.arange(3 * PATCH * PATCH).reshape(3, PATCH, PATCH)
    order = torch.empty(4, 48, dtype=torch.long)
    for k2, (i2, j2) in enumerate(_corners()):
        for k1, (i1, j1) in enumerate(_corners()):
            for k0, (i0, j0) in enumerate(_corners()):
                first = k1 * 12 + k0 * 3
                order[k2, first : first + 3] = index[:, 4 * i2 + 2 * i1 + i0, 4 * j2 + 2 * j1 + j0]
    return order


def _project(conv: torch.nn.Conv2d, components: Tensor, mean: Tensor) -> None:
    order = _patch_order()
    for k, (i, j) in enumerate(_corners()):
        conv.weight[: len(components), :48, i, j] = components[:, order[k]]
    conv.bias[: len(components)] = -components @ mean


def _read_out(encoder: torch.nn.Module, count: int) -> None:
    """Carry the latents through the last norm and SiLU unchanged: silu(x) - silu(-x) = x, beside large constants."""
    shortcut, norm, out = (
        encoder.down_blocks[3].resnets[0].conv_shortcut,
        encoder.conv_norm_out,
        encoder.conv_out,
    )
    width = norm.num_channels // norm.num_groups
    pairs = -(-count // norm.num_groups)  # latents carried by each group, as x and -x
    constants = width - 2 * pairs
    for c in range(count):
        group, slot = c % norm.num_groups, c // norm.num_groups
        plus = group * width + 2 * slot
        shortcut.weight[plus, c], shortcut.weight[plus + 1, c] = 1.0, -1.0
        scale = (constants / width) ** 0.5 * CONSTANT
        out.weight[c, plus, 1, 1], out.weight[c, plus + 1, 1, 1] = scale, -scale
    for group in range(norm.num_groups):
        first = group * width + 2 * pairs
        shortcut.bias[first : first + constants] = CONSTANT * torch.tensor([1.0, -1.0]).repeat(constants // 2)


def _write_moments(conv: torch.nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Latents times `scale` plus `shift`, and a log-variance of -12: the encoder is certain."""
    count = len(scale)
    conv.weight.zero_()
    conv.weight[:count, :count, 0, 0] = scale.diag()
    conv.bias[:count], conv.bias[count:] = shift, -12.0
    conv.requires_grad_(False)
