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
STATE = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of a weight


class Run:
    """Parameters in training, their optimizer, moving average and place in the schedule: one safetensors file.

    The rate warms up and stays, so that a run has no end that must be known at its start; over the last `anneal` of
    `steps` it falls to zero. `counts` are whole numbers that belong to the state (such as shards in use).
    """

    def __init__(self, path: Path, modules: dict[str, nn.Module], rate: float):
        self.path, self.rate, self.step, self.counts = path, rate, 0, {}
        named = {
            f"{name}.{key}": p
            for name, m in modules.items()
            for key, p in m.named_parameters()
            if p.requires_grad
        }
        self.names, self.weights = list(named), list(named.values())
        # Muon was tried: 2 % less loss after as many steps of 32, but on a CPU a step then takes twice as long.
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = [w.detach().clone() for w in self.weights]
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
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
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
            kept = {"weight": weight, "average": mean, **self.optimizer.state[weight]}
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
            keys = [key for key in STATE if f"{key}:{name}" in tensors]
            self.optimizer.state[weight] = {key: tensors[f"{key}:{name}"].to(weight.device) for key in keys}
