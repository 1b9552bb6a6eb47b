"""LoRAs from anywhere, and their relatives, put on the base model: one, or several with a dial each."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.protocol import Attached, Backbone
from ..config.training import TrainConfig
from ..core.errors import note
from ..files.contents import Layers
from ..files.lora import fit, in_dtype, peft_settings
from ..files.lycoris import change
from ..files.opening import Opened, refuse_method_files
from ..maths.composing import Strength
from ..maths.plp import FACTORS
from .added import per_sample
from .denoising import one_dial
from .low_rank import LoraContentConfig, LoraStyleConfig, LoraTask
from .protocol import Pair, Task


class AttachedLoras:
    """A dial for each file: that of its role, "content", "style" or another; both at once for "lora"."""

    by_sample: ClassVar[bool] = True

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.strength: dict[str, Strength] = {}  # by role
        self.adapters: list[str] = []  # roles with plain LoRAs, which peft holds
        self.hooks: list[Any] = []

    def add(self, role: str, layers: Layers, dense: Mapping[str, Tensor]) -> None:
        """dense: layer -> dW of what is no product of two projections."""
        self.strength[role] = 1.0
        denoiser = self.backbone.denoiser
        if layers:
            self.adapters.append(role)
            _inject(denoiser, role, layers)
            ups = (denoiser.get_submodule(layer).lora_B[role] for layer in layers)
            self.hooks += [up.register_forward_hook(self._dial(role)) for up in ups]
        for layer, change_of in dense.items():
            module = denoiser.get_submodule(layer)
            hook = _Change(self, role, change_of.to(module.weight.device, module.weight.dtype))
            self.hooks.append(module.register_forward_hook(hook))

    def arguments(self, content: Strength, style: Strength, *more: Strength) -> None:
        """The dials are turned here, and nothing goes through the pipeline's call."""
        others = [role for role in self.strength if role not in (*FACTORS, "lora")]
        dials = {"content": content, "style": style, **dict(zip(others, more, strict=True))}
        for role in self.strength:
            self.strength[role] = one_dial(content, style) if role == "lora" else dials[role]
        if self.adapters:  # peft has one strength for all samples: those of each are hooks'
            strengths = [self.strength[role] for role in self.adapters]
            weights = [1.0 if isinstance(strength, Sequence) else strength for strength in strengths]
            self.backbone.denoiser.set_adapters(self.adapters, weights)

    def _dial(self, role: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        def turn(up: nn.Module, given: tuple, added: Tensor) -> Tensor | None:
            strength = self.strength[role]
            return _times(strength, added) if isinstance(strength, Sequence) else None

        return turn

    def remove(self) -> None:
        for hook in self.hooks:
            hook.remove()
        if self.adapters:
            self.backbone.denoiser.unload_lora()


class _Change:
    """Adds what a change of the weight adds to a layer's output."""

    def __init__(self, attached: AttachedLoras, role: str, dW: Tensor) -> None:
        self.attached, self.role, self.dW = attached, role, dW

    def __call__(self, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if isinstance(module, nn.Conv2d):
            added = F.conv2d(given[0], self.dW, None, module.stride, module.padding, module.dilation)
        else:
            added = F.linear(given[0], self.dW)
        return output + _times(self.attached.strength[self.role], added)


def _times(strength: Strength, added: Tensor) -> Tensor:
    return added * (per_sample(list(strength), added) if isinstance(strength, Sequence) else strength)


def _inject(denoiser: Any, name: str, layers: Layers) -> None:
    """Through peft, with every rank and alpha said: releases of Diffusers guess them differently where they differ."""
    state = {}
    for layer, pair in layers.items():
        up, down = in_dtype(*pair, denoiser.dtype)
        state[f"{layer}.lora_A.weight"] = down
        state[f"{layer}.lora_B.weight"] = up[..., None, None] if down.dim() == 4 else up
    settings = peft_settings(layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two adapters are what is wanted
        denoiser.load_lora_adapter(
            state, prefix=None, adapter_name=name, metadata=settings, low_cpu_mem_usage=True
        )


class Lora:
    """LoRA files that name no basis of ours, and the training of new ones."""

    name, doc = "lora", "an ordinary LoRA, or two that are put together as they draw"
    jobs: tuple[type[TrainConfig], ...] = (LoraContentConfig, LoraStyleConfig)
    triggers = True
    by_sample = True
    two_dials = True

    def task(self, config: Any) -> Task:
        return LoraTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        """Nothing is made of them: they are added, or their predictions are, when images are drawn."""
        return {"content_file": pair.train(LoraContentConfig), "style_file": pair.train(LoraStyleConfig)}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        """Diffusers would only warn of some of what is refused here."""
        refuse_method_files(files)
        if len(files) > 1:
            note(
                f"{' and '.join(opened.where for opened in files.values())}: not trained to go together; each "
                "has a dial of its own"
            )
        ready = {}
        for role, opened in files.items():
            layers = fit(opened.where, opened.contents, backbone.denoiser, backbone.name)
            dense = {
                layer: change(opened.where, *of_layer, backbone.denoiser.get_submodule(layer).weight)
                for layer, of_layer in opened.contents.others.items()
            }
            ready[role] = layers, dense
        attached = AttachedLoras(backbone)
        for role, (layers, dense) in ready.items():
            attached.add(role, layers, dense)
        attached.arguments(1.0, 1.0, *[1.0] * len(files.keys() - {*FACTORS, "lora"}))
        return attached
