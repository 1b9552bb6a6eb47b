"""What most methods share: cached conditions, the denoising loss on them, AdamW, plain parameters."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.cache import Cache, encode
from ..backbones.protocol import Backbone
from ..config.training import TrainConfig
from ..data.inputs import Inputs
from ..maths.objective import objective
from .protocol import Batch


class DenoisingLearner:
    """A `Learner` of parameters that live on the denoiser. A method adds `named` and `save`, and what it does apart."""

    named: Mapping[str, nn.Parameter]

    def __init__(self, backbone: Backbone, inputs: Inputs, config: TrainConfig) -> None:
        self.backbone, self.inputs, self.config = backbone, inputs, config

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.named.values())

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parameters, lr=self.config.lr, weight_decay=self.config.weight_decay, fused=self.fused
        )

    @property
    def fused(self) -> bool:
        """One kernel, or one loop, for a group; the loss scaler of float16 wants to leave out a step by itself."""
        device = self.parameters[0].device.type
        return self.config.mixed_precision != "fp16" and device in ("cpu", "cuda")

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def gather(self) -> None:
        """Parameters that are stepped as they are have their gradients already."""

    def encode(self, device: torch.device) -> Cache:
        return encode(self.backbone, self.inputs.images, self.inputs.prompts, device)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        def denoise(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.backbone.predict(noisy, timesteps, batch.conditions, self.attention(batch))

        return objective(
            denoise,
            batch.latents,
            batch.noise,
            batch.timesteps,
            batch.weights,
            self._alphas_cumprod,
            self.backbone.prediction_type,
            self.config.snr_gamma,
        )

    def attention(self, batch: Batch) -> dict[str, Any] | None:
        """cross_attention_kwargs of a training step."""
        return None

    def learns_from(self, sample: int) -> set[str]:
        return {name.split("/")[0] for name in self.named}

    @cached_property
    def _alphas_cumprod(self) -> Tensor:
        """On the denoiser's device, so that a step copies nothing."""
        return self.backbone.alphas_cumprod.to(self.backbone.denoiser.device)
