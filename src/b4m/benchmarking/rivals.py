"""What `b4m bench` compares with: the published flow, an ordinary LoRA, other Riemannian optimizers.

The published flow is written from its description: one pass after another for the target and each partner, the
autoencoder in every step, whole rank-r factors as parameters behind a mask on their gradient, an AdamW for each factor,
float32. The LoRA is peft's, on the same layers, in the frozen model's own precision and without a cast: the least that
any trainer must pay.
"""

import copy
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from diffusers import ModelMixin
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from ..backbones.cache import Cache
from ..backbones.protocol import Backbone
from ..maths.adapter import Adapter, PLPAttnProcessor
from ..maths.objective import add_noise, draw_noise, regression_target, sample_losses
from ..maths.plp import FACTORS, frozen_sizes
from ..maths.riemannian import DAMPING

Pairs = list[tuple[nn.Parameter, nn.Parameter]]


def sharing(unet: ModelMixin) -> ModelMixin:
    """The same modules anew, on the same frozen weights: a second adapter costs no second model."""
    return copy.deepcopy(unet, {id(p): p for p in unet.parameters()})


class LoraAdapter:
    """An ordinary LoRA where the training loop expects an Adapter: ups stand for B, downs for D.

    Raises ImportError without peft. layers: full names of the projections it goes on.
    """

    def __init__(self, unet: ModelMixin, layers: Iterable[str], rank: int) -> None:
        unet.set_attn_processor(PLPAttnProcessor({}))  # the same attention, without an adapter
        self.layers = list(layers)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=self.layers), unet)
        self._pairs: Pairs = []
        for layer in map(unet.get_submodule, self.layers):
            up, down = (factors["default"].to(unet.dtype) for factors in (layer.lora_B, layer.lora_A))
            self._pairs.append((up.weight, down.weight))

    def pairs(self) -> Pairs:
        return self._pairs

    def parameters_of(self, kind: str) -> list[nn.Parameter]:
        return [pair[list(FACTORS).index(kind)] for pair in self._pairs]

    def remove(self, unet: ModelMixin) -> None:
        """Nothing takes it off again: the copy that it is on goes with it."""


class MaskedLinear(nn.Module):
    """Whole factors W_up (m, r), W_down (r, n) as parameters; a mask on the gradient keeps a part of each."""

    def __init__(self, m: int, n: int, rank: int, ratio: float) -> None:
        super().__init__()
        d_out, d_in = frozen_sizes(m, n, ratio)
        self.up = nn.Parameter(torch.randn(m, rank) / m**0.5)
        self.down = nn.Parameter(torch.randn(rank, n) / n**0.5)
        up_mask, down_mask = torch.ones(m, 1), torch.ones(1, n)
        up_mask[:d_out], down_mask[:, :d_in] = 0, 0
        self.register_buffer("up_mask", up_mask)
        self.register_buffer("down_mask", down_mask)
        self.up.register_hook(lambda gradient: gradient * self.up_mask)
        self.down.register_hook(lambda gradient: gradient * self.down_mask)

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """(rows, tokens, n) -> (rows, tokens, m), with the adapted layer; the arguments are PLPLinear's."""
        return arguments[-1](x) + x @ self.down.T @ self.up.T


class PublishedFlow:
    """One step of the published stage-one trainer. mark: called with the phase that has just ended."""

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter,
        cache: Cache,
        pixels: Tensor,
    ) -> None:
        self.backbone, self.cache, self.pixels = backbone, cache, pixels  # pixels (images, 3, H, W)
        unet = backbone.denoiser
        self.alphas_cumprod = backbone.alphas_cumprod.to(unet.device)
        self.layers: dict[str, MaskedLinear] = {}
        torch.manual_seed(0)
        processors = {}
        for name in unet.attn_processors:
            path = name.removesuffix(".processor")
            mine: dict[str, Any] = {}
            for layer in adapter.layers:
                if layer.startswith(path + "."):
                    m, n = unet.get_submodule(layer).weight.shape
                    mine[layer.removeprefix(path + ".")] = MaskedLinear(
                        m, n, adapter.spec.rank, adapter.spec.ratio
                    )
            self.layers |= {f"{path}.{projection}": layer for projection, layer in mine.items()}
            processors[name] = PLPAttnProcessor(mine).to(unet.device)
        unet.set_attn_processor(processors)
        factors = (
            [layer.up for layer in self.layers.values()],
            [layer.down for layer in self.layers.values()],
        )
        self.optimizers = [
            torch.optim.AdamW(factor, lr=lr) for factor, lr in zip(factors, (1e-4, 1e-5), strict=True)
        ]

    def step(self, number: int, mark: Callable[[str], None]) -> None:
        """The target's pass and the step of its factor, then a pass for each partner and the other factor's step."""
        rows = range(len(self.pixels))
        noise, timesteps = draw_noise(0, number, rows, self.cache.latents[0].shape, len(self.alphas_cumprod))
        for optimizer, group in zip(self.optimizers, (rows[:1], rows[1:]), strict=True):
            for row in group:
                self._pass(row, noise[[row]], timesteps[[row]], len(group), mark)
            optimizer.step()
            optimizer.zero_grad()  # its own factor: what the other factor has gathered stays
            mark("optimizer")

    def _pass(
        self, row: int, noise: Tensor, timesteps: Tensor, share: int, mark: Callable[[str], None]
    ) -> None:
        device = self.backbone.denoiser.device
        noise, timesteps, index = noise.to(device), timesteps.to(device), torch.tensor([row], device=device)
        latents = self.backbone.encode_images(self.pixels[row : row + 1])
        noisy = add_noise(latents, noise, timesteps, self.alphas_cumprod)
        conditions = {name: rows.float() for name, rows in self.cache.conditions(index).items()}
        mark("data")
        prediction = self.backbone.predict(noisy, timesteps, conditions)
        target = regression_target(latents, noise, timesteps, self.alphas_cumprod, "epsilon")
        loss = sample_losses(prediction, target).sum() / share
        mark("forward")
        loss.backward()
        mark("backward")


class _Pair(nn.Module):
    """(B, D) under the names by which peft finds the factors of a LoRA."""

    def __init__(self, B: nn.Parameter, D: nn.Parameter) -> None:
        super().__init__()
        self.lora_B, self.lora_A = nn.Module(), nn.Module()
        self.lora_B.weight, self.lora_A.weight = B, D


def peft_riemannian(pairs: Pairs) -> torch.optim.Optimizer:
    """peft's Riemannian AdamW on `pairs`. Raises ImportError for a peft without it."""
    from peft.optimizers import create_riemannian_optimizer

    model = nn.ModuleList(_Pair(B, D) for B, D in pairs)
    return create_riemannian_optimizer(model, torch.optim.AdamW, lr=1e-4, reg=DAMPING)


class LoopedInverse(torch.optim.AdamW):
    """AdamW after a precondition that goes through the layers one by one with torch.inverse, in float32."""

    def __init__(self, pairs: Pairs, damping: float = 1e-3) -> None:
        super().__init__([factor for pair in pairs for factor in pair], lr=1e-4)
        self._pairs, self._damping = pairs, damping

    @torch.no_grad()
    def step(self, closure=None):
        for B, D in self._pairs:
            damping = self._damping * torch.eye(len(D), device=D.device)
            of_B, of_D = cast(Tensor, B.grad), cast(Tensor, D.grad)
            of_B.copy_(of_B @ torch.inverse(D @ D.T + damping))
            of_D.copy_(torch.inverse(B.T @ B + damping) @ of_D)
        return super().step()
