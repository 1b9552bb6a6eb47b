"""The base's autoencoder: an encoder in closed form (patch PCA) and a decoder trained against it.

The encoder's weights are written, not learned: three strided convolutions gather an 8x8 patch, the last one
projects it on the principal components of the world's patches. The latents are therefore final before any
training, so that the UNet can be pretrained while the decoder still learns to undo them.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor

PATCH = 8
CONSTANT = (
    30.0  # far above the data: makes the last group norm a fixed scale, so that the encoder stays linear
)


def principal_components(pictures: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (192,), components (count, 192), deviations (count,) of the 8x8 patches of `pictures` (N, 3, H, W)."""
    patches = (
        torch.nn.functional.unfold(pictures, PATCH, stride=PATCH)
        .transpose(1, 2)
        .reshape(-1, 3 * PATCH * PATCH)
    )
    mean = patches.mean(0)
    variance, vectors = torch.linalg.eigh((patches - mean).T.cov())
    order = variance.argsort(descending=True)[:count]
    return mean, vectors[:, order].T.contiguous(), variance[order].sqrt()


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Set the encoder of `vae` to the principal components of `pictures` (N, 3, H, W) in [-1, 1].

    Latents are scaled by deviation**-0.5, half-way between raw components (where noise drowns all but brightness) and
    whitened ones (where the finest detail weighs as much as the outline), then to unit variance over all channels.
    """
    count = vae.config.latent_channels
    mean, components, deviation = principal_components(pictures, count)
    components = components * deviation.rsqrt()[:, None]
    components = components / deviation.mean().sqrt()

    encoder = vae.encoder
    for parameter in encoder.parameters():
        parameter.zero_()
    for module in encoder.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.weight.fill_(1.0)
    _identity(encoder.conv_in, 3)
    _space_to_depth(encoder.down_blocks[0].downsamplers[0].conv, 3)
    _identity(encoder.down_blocks[1].resnets[0].conv_shortcut, 12)
    _space_to_depth(encoder.down_blocks[1].downsamplers[0].conv, 12)
    _identity(encoder.down_blocks[2].resnets[0].conv_shortcut, 48)
    _project(encoder.down_blocks[2].downsamplers[0].conv, components, mean)
    _read_out(encoder, count)
    vae.quant_conv.weight.copy_(torch.eye(2 * count)[:, :, None, None])
    vae.quant_conv.bias.zero_()
    encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)


def _identity(conv: torch.nn.Conv2d, channels: int) -> None:
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
                order[k2, k1 * 12 + k0 * 3 : k1 * 12 + k0 * 3 + 3] = index[
                    :, 4 * i2 + 2 * i1 + i0, 4 * j2 + 2 * j1 + j0
                ]
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
    out.bias[count:] = -12.0  # log-variance: the encoder is certain
