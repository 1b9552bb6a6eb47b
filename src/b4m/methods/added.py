"""What forward hooks add to the outputs of linear layers, and the timestep at which: in training as in sampling."""

from collections.abc import Mapping
from typing import Any

from diffusers import ModelMixin
from torch import Tensor, nn

NAME = "b4m_added"  # of the module beside a layer


class Additions:
    """A module beside each of some linear layers: what it makes of the layer's input is added to the output.

    modules: by the layer's name; each becomes a part of its layer, so that it moves with it.
    """

    def __init__(self, denoiser: ModelMixin, modules: Mapping[str, nn.Module]) -> None:
        self.layers = {name: denoiser.get_submodule(name) for name in modules}
        self.hooks = []
        for name, layer in self.layers.items():
            layer.add_module(NAME, modules[name].to(layer.weight.device))
            self.hooks.append(layer.register_forward_hook(_add))

    def remove(self) -> None:
        """The layers as they were."""
        for hook, layer in zip(self.hooks, self.layers.values(), strict=True):
            hook.remove()
            delattr(layer, NAME)


def _add(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + getattr(layer, NAME)(given[0])


class LowRankTerm(nn.Module):
    """strength U D x, of a frozen LoRA of one layer: up U (m, r), down D (r, n)."""

    def __init__(self, up: Tensor, down: Tensor) -> None:
        super().__init__()
        self.register_buffer("up", up, persistent=False)
        self.register_buffer("down", down, persistent=False)
        self.strength = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.strength * ((x @ self.down.to(x.dtype).T) @ self.up.to(x.dtype).T)


class Clock:
    """The timesteps of the denoiser's call under way: one for all its samples, or one each."""

    def __init__(self, denoiser: ModelMixin) -> None:
        self.timesteps: list[float] = []
        self.hook = denoiser.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, denoiser: nn.Module, given: tuple, named: dict[str, Any]) -> None:
        timestep = given[1] if len(given) > 1 else named["timestep"]
        values = timestep.flatten().tolist() if isinstance(timestep, Tensor) else [float(timestep)]
        self.timesteps = values

    def remove(self) -> None:
        self.hook.remove()


def per_sample(values: list[float], like: Tensor) -> Tensor:
    """One number for each sample of `like` (samples, ...), broadcastable to it; one for all where there is one."""
    return like.new_tensor(values).reshape(-1, *[1] * (like.dim() - 1))
