"""What most methods share: reference images, cached conditions, the denoising loss, AdamW, plain parameters."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..backbones.cache import Cache, encode
from ..backbones.protocol import Backbone, Conditions
from ..config.training import TrainConfig
from ..core.errors import UserError
from ..data.inputs import Group, Inputs, read_inputs
from ..data.partners import partner_prompt
from ..maths.composing import Strength
from ..maths.objective import objective
from .protocol import Batch

S = TypeVar("S", bound=Strength)


class DenoisingTask:
    """A `Task` on the images of `prompts`: kind -> the caption of those that have none. A method adds `start`.

    partner: the kind of the settings' partners, which share each micro-batch. triggers: kind -> the word that calls it,
    where it is not the settings' own.
    """

    config: Any  # settings of one of the method's jobs

    def __init__(
        self,
        config: TrainConfig,
        prompts: Mapping[str, str],
        preview_prompt: str,
        partner: str | None = None,
        triggers: Mapping[str, str] | None = None,
    ) -> None:
        self.config, self.preview_prompt = config, preview_prompt
        groups = [
            Group(
                kind,
                getattr(config, f"{kind}_dir"),
                prompt,
                config.target_rows,
                trigger=(triggers or {}).get(kind) or getattr(config, f"{kind}_trigger"),
                given="--prompt" if getattr(config, "prompt", None) else "",
            )
            for kind, prompt in prompts.items()
        ]
        groups += self._partners(partner)
        self.inputs = read_inputs(groups, config.resolution, config.fit, config.alpha, config.buckets)

    def facts(self) -> dict[str, Any]:
        return self.inputs.facts()

    def _partners(self, kind: str | None) -> list[Group]:
        """One sample of each in every micro-batch (Sec. 4.2)."""
        if kind is None:
            return []
        paths = self.config.partner_dirs
        captions = self.config.partner_prompts or [None] * len(paths)
        return [
            Group(
                kind,
                (path,),
                caption or partner_prompt(kind, path),
                partner=True,
                given="--partner-prompts" if caption else "",
            )
            for path, caption in zip(paths, captions, strict=True)
        ]


class DenoisingLearner:
    """A `Learner` of parameters that live on the denoiser. A method adds `named` and `save`, and what it does apart."""

    config: Any  # settings of one of the method's jobs
    reads_prompts = False
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

    @property
    def found(self) -> Mapping[str, Tensor]:
        return {}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def gather(self) -> None:
        """Parameters that are stepped as they are have their gradients already."""

    def encode(self, device: torch.device) -> Cache:
        return encode(self.backbone, self.inputs.images, self.inputs.prompts, device)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        def denoise(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return self.backbone.predict(noisy, timesteps, conditions, self.attention(batch))

        conditions = self.conditions(batch)

        return objective(
            denoise,
            batch.latents,
            batch.noise,
            batch.timesteps,
            batch.weights,
            self._alphas_cumprod,
            self.backbone.prediction_type,
            self.config.snr_gamma,
            batch.mask,
        )

    def conditions(self, batch: Batch) -> Conditions:
        """Of a training step: those that were encoded once."""
        return batch.conditions

    def attention(self, batch: Batch) -> dict[str, Any] | None:
        """cross_attention_kwargs of a training step."""
        return None

    def measured(self, step: int) -> dict[str, Tensor]:
        return {}

    def learns_from(self, sample: int) -> set[str]:
        return {name.split("/")[0] for name in self.named}

    @cached_property
    def _alphas_cumprod(self) -> Tensor:
        """On the denoiser's device, so that a step copies nothing."""
        return self.backbone.alphas_cumprod.to(self.backbone.denoiser.device)


def one_dial(content: S, style: S) -> S:
    """The strength of what cannot be told apart into content and style. Raises UserError for two."""
    if content != style:
        raise UserError(
            f"content strength {content} and style strength {style}: this file cannot be split into content and "
            "style, so both dials must have one value, and --compose stays weights"
        )
    return content
