"""Parameters in training, their optimizer and moving average: resumable at any step, by one process or several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from world import processes

EMA = 0.999
WARM_UP = 200  # steps
REPORT = 50  # steps
STATE = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # what AdamW and Muon keep of a weight


class Run:
    """Parameters in training, their optimizer, moving average and place in the schedule: one safetensors file.

    The rate warms up and stays, so that a run has no end that must be known at its start; over the last `anneal` of
    `steps` it falls to zero. muon: matrices learn by Muon (Jordan et al. 2024), at the rate that AdamW would have, all
    else by AdamW: after as many steps of 32 2 % less loss, and of 64 a step takes 1.14 s instead of 0.82. `counts` are
    whole numbers that belong to the state (such as shards in use).
    """

    def __init__(self, path: Path, modules: dict[str, nn.Module], rate: float, muon: bool = False):
        self.path, self.rate, self.step, self.counts = path, rate, 0, {}
        named = {
            f"{name}.{key}": p
            for name, m in modules.items()
            for key, p in m.named_parameters()
            if p.requires_grad
        }
        self.names, self.weights = list(named), list(named.values())
        self.average = [w.detach().clone() for w in self.weights]
        # Views of the weights, as Muon takes matrices only.
        self.matrices = {
            name: nn.Parameter(w.detach().flatten(1))
            for name, w in named.items()
            if muon and is_matrix(name, w)
        }
        others = [w for name, w in named.items() if name not in self.matrices]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        ]
        if muon:
            matrices = list(self.matrices.values())
            self.optimizers.append(
                torch.optim.Muon(matrices, lr=rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
        if path.exists():
            self._load()

    def loop(
        self, loss_of_step: Callable[[int], Tensor], steps: int, anneal: int = 0, save_every: int = 250
    ) -> None:
        """Train until `steps` have been done; loss_of_step must be a function of the step (and of `counts`) alone."""
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        start = time.time()
        while self.step < steps:
            loss = loss_of_step(self.step)
            left = (steps - self.step) / anneal if anneal else 1.0
            norms.append(self._update(loss, self.rate * min(1.0, (self.step + 1) / WARM_UP, left)))
            losses.append(loss.detach())
            saving = self.step % save_every == 0 or self.step == steps
            if saving or self.step % REPORT == 0:  # looking at a loss waits for the device: not at every step
                self._report(losses, norms, (time.time() - start) / len(losses))
                losses, norms, start = [], [], time.time()
            if saving and processes.rank() == 0:
                self.save()

    def _report(self, losses: list[Tensor], norms: list[Tensor], pace: float) -> None:
        """A gradient can fail while its loss is a number still: one such step, and the weights are none."""
        means = {name: torch.stack(v).mean().item() for name, v in (("loss", losses), ("gradient", norms))}
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise SystemExit(
                    f"{name} is {mean} before step {self.step}: lower --rate; {self.path} holds the last good state"
                )
        if processes.rank() == 0:
            clock = time.strftime("%H:%M:%S")
            told = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            print(f"{clock} {self.path.stem} step {self.step} {told} {pace:.3f} s/step", flush=True)

    def _update(self, loss: Tensor, rate: float) -> Tensor:
        """One step; the norm () of its gradient."""
        loss.backward()
        processes.average_gradients(self.weights)
        norm = nn.utils.clip_grad_norm_(self.weights, 1.0)
        for name, weight in zip(self.names, self.weights, strict=True):
            if name in self.matrices and weight.grad is not None:
                self.matrices[name].grad = weight.grad.flatten(1)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad()
        for weight in self.weights:
            weight.grad = None
        self.step += 1
        decay = min(EMA, self.step / (self.step + 20))
        torch._foreach_lerp_(self.average, self.weights, 1 - decay)
        return norm

    @torch.no_grad()
    def adopt_average(self) -> None:
        for weight, mean in zip(self.weights, self.average, strict=True):
            weight.copy_(mean)

    def save(self) -> None:
        tensors = {f"count:{name}": torch.tensor(n) for name, n in {"step": self.step, **self.counts}.items()}
        for name, weight, mean in zip(self.names, self.weights, self.average, strict=True):
            kept = {"weight": weight, "average": mean, **self._state_of(name, weight)}
            tensors |= {f"{key}:{name}": value.detach().contiguous() for key, value in kept.items()}
        part = self.path.with_suffix(".part")
        save_file(tensors, part)
        part.replace(self.path)

    @torch.no_grad()
    def _load(self) -> None:
        tensors = load_file(self.path)
        self.counts = {key[6:]: int(value) for key, value in tensors.items() if key.startswith("count:")}
        self.step = self.counts.pop("step")
        for name, weight, mean in zip(self.names, self.weights, self.average, strict=True):
            weight.copy_(tensors[f"weight:{name}"])
            mean.copy_(tensors[f"average:{name}"])
            # SDXL reads the encoders before their last layer, which so has no gradient and no state.
            state = self._state_of(name, weight)
            keys = [key for key in STATE if f"{key}:{name}" in tensors]
            state |= {key: tensors[f"{key}:{name}"].to(weight.device) for key in keys}

    def _state_of(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """What the weight's optimizer keeps of it."""
        if name in self.matrices:
            return self.optimizers[1].state[self.matrices[name]]
        return self.optimizers[0].state[weight]


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether Muon may train it: not what embeds words, times and sizes, and not where latents enter or leave."""
    return weight.ndim > 1 and not any(part in name for part in ("embedding.", "conv_in.", "conv_out."))
