"""The only training loop: batched passes, an optimizer step, a log line, a state to return to."""

import math
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from tqdm import tqdm

from . import stages
from .adapter import Adapter
from .checkpoint import load_state, save_state
from .config import TrainConfig
from .errors import UserError
from .footprint import estimate_line
from .frozen import place, quantize
from .generate import grid, sample, save_png
from .guard import check_weights, suspects
from .lock import exclusive
from .logbook import Logbook
from .objective import draw, in_parts, objective, row_weights, terms
from .plp import HALVES
from .process import (
    accelerator,
    advice,
    check_shard,
    check_writable,
    deterministic,
    package_version,
    peak_mb,
    signals,
)
from .resume import check_same, check_steps, made_by, pack, settings_of, unpack
from .sdxl import DTYPES, Cache, check_size, encode_guided, free, load_base, prepare
from .stacks import Stacks


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. losses: Eq. 12 per step, of all steps but skipped ones; the rest: of this call."""

    losses: list[float]
    seconds: float
    peak_mb: float  # of the GPU's memory if there is one, else of the process
    path: Path


def train(config: TrainConfig) -> TrainResult:
    """Run one job to its end and write its result. Run again, it goes on; a finished one is left as it is.

    Raises UserError for bad input (before anything is written), a state of other settings, a loss or gradient
    that is not finite, a disk that refuses (the last state stays each time), a folder that another run is at
    work in; SystemExit(128 + n) after signal n, once the step is saved.
    """
    started = time.perf_counter()
    run = Run(config)
    with exclusive(run.folder) if run.main else nullcontext():
        run.find_state()
        if run.finished:
            run.say(
                f"finished before: {run.path} ({config.steps} steps); give more --steps, or delete {run.folder}"
            )
            return TrainResult(run.book.losses, 0.0, peak_mb(), run.path)
        _loop(run)
    result = TrainResult(run.book.losses, time.perf_counter() - started, peak_mb(), run.path)
    run.say(f"{result.seconds:.0f} s, {result.peak_mb:.0f} MB at most: {result.path}")
    return result


def _loop(run: "Run") -> None:
    """From the step that the run stands at to its last one, and its result."""
    config = run.config
    with deterministic(), advice():
        run.load()
        with signals() as received:
            bar = tqdm(
                range(run.step, config.steps),
                initial=run.step,
                total=config.steps,
                desc=config.stage,
                disable=not run.main,
                mininterval=0.5 if sys.stderr.isatty() else 10,
            )
            for run.step in bar:
                run.stacks.zero_grad()
                values = torch.stack([run.micro_step(i) for i in range(config.gradient_accumulation)]).mean(0)
                loss, target, partner, stop = run.average(values, stop=bool(received))
                if run.advance(loss):
                    losses = {"loss": loss, "target_loss": target, "partner_loss": partner}
                    run.book.add({"step": run.step + 1, **losses})
                run.schedule.step()
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                if stop or _due(config.checkpoint_every, run.step) or run.step + 1 == config.steps:
                    run.save_state()
                if stop and run.step + 1 < config.steps:
                    bar.close()
                    run.say(
                        f"stopped after step {run.step + 1} of {config.steps}; the same command continues"
                    )
                    raise SystemExit(128 + (received[0] if received else signal.SIGTERM))
                if _due(config.preview_every, run.step):
                    run.preview(run.step + 1)
            run.save_result()


class Run:
    """What a loop works on: the model, the rows, the optimizer, and where the run stands on disk."""

    def __init__(self, config: TrainConfig) -> None:
        """Read and check all inputs but the base model."""
        self.config = config
        self.accelerator = accelerator(config.mixed_precision, config.tracker, config.output_dir)
        self.main = self.accelerator.is_main_process
        self.folder = Path(config.output_dir)
        check_writable(self.folder)
        check_shard(config.shard, self.accelerator)
        self.stage = stages.gather(config)
        self.path = self.folder / self.stage.plan.result
        self.settings = settings_of(config, self.stage.facts(), self.accelerator.num_processes)

    def find_state(self) -> None:
        """How far an earlier run came. Raises UserError if it had other settings, or has taken more steps."""
        with warnings.catch_warnings(record=True) as damaged:
            warnings.simplefilter("always")
            found = load_state(self.folder / "state")
        for warning in damaged:
            self.say(str(warning.message))
        self.step, self._tensors, self._meta = found if found else (0, {}, {})
        if found:
            check_same(self._meta["settings"], self.settings, self.folder)
            if line := check_steps(self.step, self._meta["settings"], self.config, self.folder):
                self.say(line)
        self.book = Logbook(self.folder, self.accelerator, self.step)
        self.finished = self.step == self.config.steps and made_by(self.path, self.step)

    def load(self) -> None:
        """Base model, caches, adapter, optimizer; then the state of the earlier run, if there is one."""
        config = self.config
        pipe = load_base(config.base_model, config.vae, DTYPES[config.mixed_precision])
        check_size(pipe, config.resolution, "--resolution")
        self.adapter: Adapter = stages.install(self.stage, pipe.unet, config.base_model)
        if config.quantize == "int8":
            quantize(pipe.unet)  # before it goes to the device, which need not hold it whole
        cache = prepare(pipe, self.stage.pictures, self.stage.prompts, self.accelerator.device)
        self.preview_prompts = [config.preview_prompt or stages.preview_prompt(config)]
        self.embeddings = encode_guided(pipe, self.preview_prompts, None) if config.preview_every else None
        free(pipe, keep_vae=bool(config.preview_every))
        self.equip(pipe, cache)

    def equip(self, pipe, cache: Cache) -> None:
        """What a step needs, around an adapted UNet and the rows it will see (pipe: its UNet and scheduler)."""
        config, self.pipe, self.cache = self.config, pipe, cache
        device, processes = self.accelerator.device, self.accelerator.num_processes
        self.named = {
            f"{half}/{layer}": parameter
            for half in HALVES
            for layer, parameter in zip(self.adapter.layers, self.adapter.parameters_of(half), strict=True)
        }
        learnable = list(self.named.values())
        self.say(estimate_line(pipe.unet, cache, self.stage.rows, config, learnable, processes))
        place(pipe.unet, config, device)
        self.is_target = self.stage.is_target.to(device)
        self.alphas_cumprod: Tensor = pipe.scheduler.alphas_cumprod.to(device, torch.float32)
        self.prediction_type: str = pipe.scheduler.config.prediction_type
        self.stacks = Stacks(self.adapter.pairs())
        self.optimizer = self.accelerator.prepare_optimizer(stages.optimizer(self.stage, config, self.stacks))
        if self.step:
            unpack(self._tensors, self._meta, self.named, self.optimizer, self.accelerator.scaler)
        self.schedule = get_scheduler(
            config.lr_schedule,
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=config.steps,
            last_epoch=self.step - 1,
        )
        self.book.start(self.stage.shown(), config.tracker)
        if self.step and _due(
            config.preview_every, self.step - 1
        ):  # a run that was stopped there may not have it
            self.preview(self.step, again=False)

    def micro_step(self, index: int) -> Tensor:
        """One pass of all rows and its gradients. -> (3,): loss, target term, partner term of Eq. 12."""
        config, device = self.config, self.accelerator.device
        number = self.step * config.gradient_accumulation + index
        number = number * self.accelerator.num_processes + self.accelerator.process_index
        picked = self.stage.picked(config.seed, number)
        rows = torch.tensor(picked, device=device)
        shape, train_timesteps = self.cache.latents.shape[1:], len(self.alphas_cumprod)
        noise, timesteps = draw(config.seed, number, range(self.stage.rows), shape, train_timesteps)
        noise, timesteps, weights = noise.to(device), timesteps.to(device), row_weights(self.is_target)
        losses = []
        for part in in_parts(self.stage.rows, config.rows_per_pass or self.stage.rows):
            loss, of_rows = objective(
                self.denoiser(rows[part], part.start),
                self.cache.latents[rows[part]],
                noise[part],
                timesteps[part],
                weights[part],
                self.alphas_cumprod,
                self.prediction_type,
                config.snr_gamma,
            )
            self.accelerator.backward(loss / config.gradient_accumulation)
            losses.append(of_rows)
        losses = torch.cat(losses)
        self.passes = [*(self.passes if index else []), (picked, losses)]  # of this step, to name a row
        target, partner = terms(losses, self.is_target)
        return torch.stack([target + partner, target, partner])

    def denoiser(self, rows: Tensor, first: int = 0) -> Callable[[Tensor, Tensor], Tensor]:
        """The adapted UNet on pictures `rows`, each row's gradient routed to its half (Eq. 12).

        first: the place of the first of them in the batch.
        """
        unet, conditioning = self.pipe.unet, self.cache.conditioning(rows)
        content = self.stage.content_rows
        routing = {"content_rows": None if content is None else min(max(content - first, 0), len(rows))}
        return lambda noisy, timesteps: (
            unet(noisy.to(unet.dtype), timesteps, **conditioning, cross_attention_kwargs=routing).sample
        )

    def average(self, values: Tensor, stop: bool) -> tuple[float, float, float, bool]:
        """The three losses over all processes, and whether any of them was told to stop."""
        flags = torch.cat([values, values.new_tensor([float(stop)])])
        loss, target, partner, stopped = self.accelerator.reduce(flags, "mean").tolist()
        return loss, target, partner, stopped > 0

    def average_gradients(self) -> None:
        """B and D are in no wrapper that would do it: one reduction for all layers of a shape."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self.stacks.parameters:
            parameter.grad.copy_(self.accelerator.reduce(parameter.grad, "mean"))

    def advance(self, loss: float) -> bool:
        """The optimizer's step on what the passes have left. -> False, nothing moved: something is not finite."""
        if not math.isfinite(loss):
            return self._leave_out(f"the loss is {loss}")
        self.stacks.gather()
        self.average_gradients()
        self.accelerator.unscale_gradients()
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in self.stacks.parameters])
        # Under float16 a gradient may overflow: the loss scaler leaves such a step out itself, and scales down.
        if self.accelerator.scaler is None and not norm.isfinite():
            return self._leave_out("the gradient is not finite")
        if self.config.max_grad_norm and norm > self.config.max_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.stacks.parameters, self.config.max_grad_norm, norm)
        self.optimizer.step()
        return True

    def _leave_out(self, what: str) -> bool:
        """-> False, with a line in the log. Raises UserError for one such step more than --skip-not-finite."""
        pictures = [picture.path for picture in self.stage.pictures]
        where = f"{what} at step {self.step + 1}"
        where += suspects(self.passes, self.named, self.stage.content_rows, pictures)
        if self.book.skipped >= self.config.skip_not_finite:
            raise UserError(
                f"{where}: nothing is saved of it, the last state in {self.folder / 'state'} stays; lower --lr, use "
                "--mixed-precision bf16 or no, look at the picture, or allow some such steps with --skip-not-finite"
            )
        self.book.add({"step": self.step + 1, "skipped": where})
        return False

    def preview(self, taken: int, again: bool = True) -> None:
        """Draw the sample pictures; they have seeds of their own and leave the training as it is."""
        path = self.folder / "previews" / f"step-{taken:06d}.png"
        if (self.main or self.config.shard) and (again or not path.exists()):
            pictures = sample(
                self.pipe,
                self.preview_prompts,
                [self.config.seed],
                size=self.config.resolution,
                embeddings=self.embeddings,
            )
            if self.main:
                save_png(path, grid(pictures, 1), {"prompt": self.preview_prompts[0], "step": str(taken)})

    def save_state(self) -> None:
        """All that the next step depends on. Raises UserError rather than keep weights that are not finite."""
        check_weights(self.stacks.parameters, self.step + 1, self.folder / "state")
        if self.main:
            tensors, meta = pack(self.named, self.optimizer, self.accelerator.scaler)
            save_state(self.folder / "state", self.step + 1, tensors, {"settings": self.settings, **meta})

    def save_result(self) -> None:
        if self.main:
            facts = {
                "base_model": self.config.base_model,
                "steps": str(self.config.steps),
                "training_seed": str(self.config.seed),
                "resolution": str(self.config.resolution),
            }
            versions = {f"{name}_version": package_version(name) for name in ("b4m", "torch", "diffusers")}
            stages.save(
                self.stage, self.config, self.adapter, self.pipe.unet, self.path, {**facts, **versions}
            )
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()

    def say(self, line: str) -> None:
        if self.main:
            print(line, flush=True)


def _due(every: int, step: int) -> bool:
    return every > 0 and (step + 1) % every == 0
