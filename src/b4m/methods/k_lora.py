"""K-LoRA (Ouyang et al. 2025, arXiv 2502.18461): one of two LoRAs for each layer and each step, without training."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.protocol import Attached, Backbone
from ..config.fields import setting
from ..core.errors import UserError
from ..files.lora import Layers
from ..files.opening import Opened, save_method_file
from ..maths.plp import FACTORS
from .added import Additions, Clock, per_sample
from .low_rank import (
    LoraContentConfig,
    LoraStyleConfig,
    TakesBoth,
    check_both,
    check_fit,
    open_both,
    unopened_base,
    words_in,
)
from .protocol import Pair

OUTLIER = 3  # layers whose quotient is so many times the mean do not count in gamma


@dataclass(frozen=True, kw_only=True)
class KLoraConfig(TakesBoth):
    """Settings of the choice."""

    stage, result = "k-lora", "k-lora.safetensors"

    schedule: str = setting(
        "how the style's weight grows over the steps: alpha tau + beta, or that modulo alpha (s* of the paper)",
        "wrapped",
        choices=("wrapped", "linear"),
    )
    alpha: float = setting("growth of the style's weight", 1.5, low=1e-3, high=1000)
    beta: float | None = setting(
        "the style's weight at the start (default: 0.85 alpha wrapped, 0.5 linear)", None, low=0, high=1000
    )


def importance(pair: tuple[Tensor, Tensor], k: int) -> float:
    """S: the sum of the k largest entries of |dW| of (up (m, r), down (r, n))."""
    entries = (pair[0] @ pair[1]).abs().flatten()
    return float(entries.topk(min(k, len(entries))).values.double().sum())


def balance(content: Layers, style: Layers) -> float:
    """gamma: how much larger the content's dW are: mean over layers of sum |dW_c| / sum |dW_s|, without outliers."""
    sums = [
        [float((up @ down).abs().double().sum()) for up, down in layers.values()]
        for layers in (content, style)
    ]
    quotients = [c / s for c, s in zip(*sums, strict=True) if s > 0]
    mean = sum(quotients) / max(len(quotients), 1)
    kept = [value for value in quotients if value < OUTLIER * mean]
    return sum(kept) / len(kept) if kept else 1.0


def scores(content: Layers, style: Layers) -> dict[str, float]:
    """(S_c / gamma) / S_s of every layer, K = r_c r_s entries each: what is held against the schedule."""
    gamma = balance(content, style)
    found = {}
    for name in content:
        k = len(content[name][1]) * len(style[name][1])
        s_content, s_style = (importance(layers[name], k) for layers in (content, style))
        found[name] = s_content / gamma / s_style if s_style > 0 else (float("inf") if s_content > 0 else 0.0)
    return found


@dataclass(frozen=True)
class Schedule:
    """The style's weight s over tau, which goes from 0, pure noise, to 1."""

    alpha: float
    beta: float
    wrapped: bool

    def __call__(self, tau: float) -> float:
        s = self.alpha * tau + self.beta
        return s % self.alpha if self.wrapped else s


class Choice:
    """The assembly: both LoRAs and every layer's score in one file."""

    def __init__(self, config: KLoraConfig) -> None:
        self.config, self.loras = config, open_both(config)
        content, style = (self.loras[kind] for kind in FACTORS)
        if lone := sorted(content.layers.keys() ^ style.layers.keys()):
            owner = content if lone[0] in content.layers else style
            raise UserError(
                f"{owner.where}: only this of the two LoRAs has {lone[0]}; train both on the same --layers"
            )

    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        denoiser, _ = unopened_base(config.base_model)
        check_both(self.loras, denoiser, config.base_model)
        wrapped = config.schedule == "wrapped"
        beta = config.beta if config.beta is not None else 0.85 * config.alpha if wrapped else 0.5
        found = scores(*(self.loras[kind].layers for kind in FACTORS))
        tensors = {
            f"{kind}/{name}/{factor}": tensor
            for kind, opened in self.loras.items()
            for name, pair in opened.layers.items()
            for factor, tensor in zip(("up", "down"), pair, strict=True)
        }
        tensors |= {f"score/{name}": torch.tensor(score) for name, score in found.items()}
        schedule = {"alpha": config.alpha, "beta": beta, "wrapped": wrapped}
        told = {**words_in(self.loras), "schedule": json.dumps(schedule), "trained_parameters": "0"}
        save_method_file(folder / config.result, "k-lora", tensors, denoiser, {**facts, **told})


class Chosen(nn.Module):
    """Two LoRAs of one layer, of which each sample gets one: the content's where score > s(tau), else the style's."""

    def __init__(
        self, loras: Mapping[str, tuple[Tensor, Tensor]], score: float, state: "AttachedChoice"
    ) -> None:
        super().__init__()
        self.score, self.state = score, [state]  # in a list: it is no part of this module
        for kind, (up, down) in loras.items():
            self.register_buffer(f"up_{kind}", up, persistent=False)
            self.register_buffer(f"down_{kind}", down, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        (state,) = self.state
        wins = [self.score > s for s in state.weights()]
        if len(set(wins)) == 1:
            return self._one("content" if wins[0] else "style", x)
        content, style = (self._one(kind, x) for kind in FACTORS)
        return torch.where(per_sample([float(win) for win in wins], x) > 0, content, style)

    def _one(self, kind: str, x: Tensor) -> Tensor:
        (state,) = self.state
        up, down = getattr(self, f"up_{kind}"), getattr(self, f"down_{kind}")
        return state.strength[kind] * ((x @ down.to(x.dtype).T) @ up.to(x.dtype).T)


class AttachedChoice:
    """Both LoRAs on a denoiser, with a dial each."""

    def __init__(
        self, backbone: Backbone, loras: Mapping[str, Layers], scores: Mapping[str, float], schedule: Schedule
    ) -> None:
        self.schedule, self.train_timesteps = schedule, len(backbone.alphas_cumprod)
        self.strength = dict.fromkeys(FACTORS, 1.0)
        self.clock = Clock(backbone.denoiser)
        modules = {
            name: Chosen({kind: layers[name] for kind, layers in loras.items()}, scores[name], self)
            for name in scores
        }
        self.additions = Additions(backbone.denoiser, modules)

    def weights(self) -> list[float]:
        """s of each sample of the call under way. tau = 1 - (t + 1) / T: step / steps where steps trail, as Euler's."""
        return [self.schedule(1 - (t + 1) / self.train_timesteps) for t in self.clock.timesteps]

    def arguments(self, content: float, style: float) -> None:
        self.strength = {"content": content, "style": style}

    def remove(self) -> None:
        self.additions.remove()
        self.clock.remove()


class KLora:
    """The method."""

    name, doc = "k-lora", "for each layer and step one of two LoRAs (K-LoRA)"
    jobs = (KLoraConfig,)
    triggers = True
    by_sample = False
    two_dials = True

    def task(self, config: Any) -> Choice:
        return Choice(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(LoraContentConfig), pair.train(LoraStyleConfig)
        return {"lora_file": pair.train(KLoraConfig, content_file=content, style_file=style)}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        opened = files["lora"]
        loras, found, schedule = _read(opened)
        for layers in loras.values():
            check_fit(opened.where, layers, backbone.denoiser, backbone.name)
        return AttachedChoice(backbone, loras, found, schedule)


def _read(opened: Opened) -> tuple[dict[str, Layers], dict[str, float], Schedule]:
    """What `Choice.make` has written. Raises UserError."""
    try:
        found = {
            name.removeprefix("score/"): float(tensor)
            for name, tensor in opened.tensors.items()
            if name.startswith("score/")
        }
        loras: dict[str, Layers] = {
            kind: {
                name: (opened.tensors[f"{kind}/{name}/up"], opened.tensors[f"{kind}/{name}/down"])
                for name in found
            }
            for kind in FACTORS
        }
        return loras, found, Schedule(**json.loads(opened.metadata["b4m.schedule"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{opened.where}: incomplete for a file of the method k-lora; make it again"
        ) from error
