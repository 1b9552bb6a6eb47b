"""The only training loop: micro-batches, an optimizer step, a log line, a state to return to."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.optimization import get_scheduler
from torch import Tensor
from tqdm import tqdm

from ..config.training import JobConfig, TrainConfig
from ..core.errors import UserError
from ..core.lock import exclusive
from ..core.process import advice, check_writable, deterministic, peak_mb, signals
from ..core.transfer import sent
from ..data.inputs import Inputs, MicroBatch
from ..maths.objective import draw_noise, in_parts, sample_weights, terms
from ..methods.protocol import Batch
from ..methods.registry import method_of
from ..sampling.grid import grid
from ..sampling.sample import sample, save_png
from .facts import facts_of
from .gradients import clip, norms
from .guard import check_weights, suspects
from .launch import check_shard, launch
from .logbook import Logbook
from .look import Look, looks_late
from .progress import Progress, find
from .resume import pack, unpack
from .start import Ready, start
from .state import save_state

Mark = Callable[[str], None]
# In log.jsonl; then `Inputs.beside`, where there is such a term.
LOSSES = ("loss", "target_loss", "partner_loss")


def no_mark(phase: str) -> None:
    """A loop that nobody times."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. losses: what is minimized per step, of all steps but skipped ones; the rest: of this call."""

    losses: list[float]
    seconds: float
    peak_mb: float  # of the GPU's memory if there is one, else of the process
    path: Path


def train(config: JobConfig) -> TrainResult:
    """Run one job to its end and write its result. Run again, it goes on; a finished one is left as it is.

    What learns nothing, and so has no steps, is made anew each time.

    Raises UserError for bad input (before anything is written), a state of other settings, a loss or gradient
    that is not finite, a disk that refuses (the last state stays each time), a folder that another run is at
    work in; SystemExit(128 + n) after signal n, once the step is saved, or after the last one the result.
    """
    if not isinstance(config, TrainConfig):
        return _assemble(config)
    started = time.perf_counter()
    accelerator = launch(config.mixed_precision, config.tracker, config.output_dir)
    main, folder = accelerator.is_main_process, Path(config.output_dir)
    check_writable(folder)
    check_shard(config.shard, accelerator)
    task = method_of(type(config)).task(config)

    def say(line: str) -> None:
        if main:
            print(line, flush=True)

    with exclusive(folder) if main else nullcontext():
        progress = find(config, task, accelerator.num_processes, say)
        book = Logbook(folder, accelerator, progress.step)
        if progress.finished:
            say(
                f"finished before: {progress.result} ({config.steps} steps); give more --steps, or delete {folder}"
            )
            return TrainResult(book.losses, 0.0, peak_mb(), progress.result)
        with deterministic(), advice():
            ready = start(config, task, accelerator, say)
            loop = Loop(config, accelerator, task.inputs, ready, progress, book)
            book.start(ready.entries, config.tracker)
            with signals() as received:
                loop.run(received, say)
                loop.finish()
    result = TrainResult(book.losses, time.perf_counter() - started, peak_mb(), progress.result)
    say(f"{result.seconds:.0f} s, {result.peak_mb:.0f} MB at most: {result.path}")
    if received:  # in the last step: whoever has more to do must not go on
        raise SystemExit(128 + received[0])
    return result


def _assemble(config: JobConfig) -> TrainResult:
    """Make a file of finished ones."""
    started, folder = time.perf_counter(), Path(config.output_dir)
    check_writable(folder)
    assembly = method_of(type(config)).task(config)
    with exclusive(folder), deterministic(), advice():
        assembly.make(folder, facts_of(config))
    result = TrainResult([], time.perf_counter() - started, peak_mb(), folder / config.result)
    print(f"{result.seconds:.0f} s, {result.peak_mb:.0f} MB at most: {result.path}", flush=True)
    return result


class Loop:
    """Steps of a learner on its inputs. mark: called with each phase of a step as it ends, for a benchmark."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        inputs: Inputs,
        ready: Ready,
        progress: Progress,
        book: Logbook,
        mark: Mark = no_mark,
    ) -> None:
        """Around a learner on its device; its state is the one that `progress` has found."""
        self.config, self.accelerator, self.inputs, self.mark = config, accelerator, inputs, mark
        self.learner, self.cache = ready.learner, ready.cache
        self.preview_prompts, self.embeddings = ready.preview_prompts, ready.embeddings
        self.progress, self.book, self.step = progress, book, progress.step
        self.is_target, self.is_prior = inputs.is_target, inputs.is_prior  # the host's
        self.train_timesteps = len(self.learner.backbone.alphas_cumprod)
        self.passes: list[tuple[MicroBatch, Tensor]] = []  # of one step, with the losses of the samples
        self.late = looks_late(accelerator.device, accelerator.scaler, config.skip_not_finite)
        self.pending: Look | None = None  # of the step before, where the host looks late
        self.optimizer = accelerator.prepare_optimizer(self.learner.optimizer())
        if self.step:
            unpack(progress.tensors, progress.meta, self.kept, self.optimizer, accelerator.scaler)
        for tensor in self.learner.found.values():  # that all processes have the same to the bit
            tensor.copy_(broadcast(tensor.clone()))
        self.schedule = get_scheduler(
            config.lr_schedule,
            self.optimizer,
            num_warmup_steps=0,
            num_training_steps=config.steps,
            last_epoch=self.step - 1,
        )

    @property
    def kept(self) -> dict[str, Tensor]:
        """All of the learner that a state holds."""
        return {**self.learner.named, **self.learner.found}

    def run(self, received: list[int], say: Callable[[str], None]) -> None:
        """From the step that the run stands at to its last one. received: signals, as they come."""
        config, main = self.config, self.accelerator.is_main_process
        if self.step and _due(config.preview_every, self.step - 1):
            self.preview(self.step, again=False)  # a run that was stopped there may not have it
        bar = tqdm(
            range(self.step, config.steps),
            initial=self.step,
            total=config.steps,
            desc=config.stage,
            disable=not main,
            mininterval=0.5 if sys.stderr.isatty() else 10,
        )
        for self.step in bar:
            seen = self.take_step(received)
            if seen is not None:
                bar.set_postfix(loss=f"{seen.loss:.4f}", refresh=False)
            stop = seen is not None and seen.stop
            if stop or _due(config.checkpoint_every, self.step) or self.step + 1 == config.steps:
                self.save_state()
            if stop and self.step + 1 < config.steps:
                bar.close()
                say(f"stopped after step {self.step + 1} of {config.steps}; the same command continues")
                raise SystemExit(128 + (received[0] if received else signal.SIGTERM))
            if _due(config.preview_every, self.step):
                self.settle(self.pending)
                self.preview(self.step + 1)

    def take_step(self, received: Sequence[int] = ()) -> Look | None:
        """One optimizer step. -> what the host knows by now: of this step or, where it looks late, of that before."""
        self.learner.zero_grad()
        self.passes = []
        values = torch.stack([self.micro_step(i) for i in range(self.config.gradient_accumulation)]).mean(0)
        look = self.advance(self.average(values, bool(received)))
        self.schedule.step()
        before, self.pending = self.pending, look
        return self.settle(before if self.late else look)

    def micro_step(self, index: int) -> Tensor:
        """One micro-batch and its gradients. -> (3,), with a prior (4,): the loss, then its `terms`."""
        config, device = self.config, self.accelerator.device
        of_step = config.gradient_accumulation * self.accelerator.num_processes
        number = self.step * config.gradient_accumulation + index
        number = number * self.accelerator.num_processes + self.accelerator.process_index
        shown = self.inputs.micro_batch(config.seed, number, of_step)
        chosen = list(shown.samples)
        is_target, is_prior = self.is_target[chosen], None if self.is_prior is None else self.is_prior[chosen]
        shares = shown.partner_share, self.inputs.prior_weight
        weights = sample_weights(is_target, shares[0], is_prior, shares[1])
        parts = in_parts([self.cache.latents[image].shape for image in shown.images], config.rows_per_pass)
        losses = []
        for part in parts:
            batch = self.batch(number, shown, part, weights)
            self.mark("data")
            loss, of_samples = self.learner.loss(batch)
            self.mark("forward")
            self.accelerator.backward(loss / config.gradient_accumulation)
            self.mark("backward")
            losses.append(of_samples)
        losses = torch.cat(losses)[sent(torch.tensor(sum(parts, [])).argsort(), device)]
        self.passes.append((shown, losses))  # to name a sample whose loss is not finite
        is_prior = None if is_prior is None else sent(is_prior, device)
        found = terms(losses, sent(is_target, device), shares[0], is_prior, shares[1])
        return torch.stack([found.sum(), *found])

    def batch(self, number: int, shown: MicroBatch, part: Sequence[int], weights: Tensor) -> Batch:
        """Those of the samples that micro-batch `number` shows which `part` counts.

        weights: of all that are shown, on the host.
        """
        device, cache = self.accelerator.device, self.cache
        chosen, places = [shown.images[i] for i in part], [shown.samples[i] for i in part]
        images = sent(torch.tensor(chosen), device)
        latents = torch.stack([cache.latents[image] for image in chosen])
        noise, timesteps = draw_noise(
            self.config.seed, number, places, latents.shape[1:], self.train_timesteps
        )
        return Batch(
            images,
            latents,
            sent(noise, device),
            sent(timesteps, device),
            sent(weights[part], device),
            cache.conditions(images),
            places,
            None if cache.masks is None else torch.stack([cache.masks[image] for image in chosen]),
        )

    def average(self, values: Tensor, stop: bool) -> Tensor:
        """The losses over all processes and, behind them, whether any was told to stop (> 0): still on the device."""
        flags = torch.cat([values, torch.full_like(values[:1], float(stop))])
        return self.accelerator.reduce(flags, "mean")

    def average_gradients(self) -> None:
        """What learns is in no wrapper that would do it: one reduction for each tensor that is stepped."""
        if self.accelerator.num_processes == 1:
            return
        for parameter in self.learner.parameters:
            gradient: Tensor = parameter.grad  # pyrefly: ignore[bad-assignment]
            gradient.copy_(self.accelerator.reduce(gradient, "mean"))

    def advance(self, values: Tensor) -> Look:
        """The optimizer's step on what the passes have left. values: as `average` gives them. -> what it tells.

        Nothing moves where the host looks at once and something is not finite. Raises UserError for that, unless
        --skip-not-finite allows it.
        """
        look = Look(self.step + 1, self.passes, values)
        if not self.late and self._left_out(look):
            return look
        self.learner.gather()
        self.average_gradients()
        self.accelerator.unscale_gradients()
        stepped = [parameter for parameter in self.learner.parameters if parameter.grad is not None]
        gradients: list[Tensor] = [parameter.grad for parameter in stepped]  # pyrefly: ignore[bad-assignment]
        found = norms(gradients)
        look.add_norms(stepped, found)
        if not self.late and self._left_out(look):
            return look
        if self.config.max_grad_norm:
            clip(gradients, found[0], self.config.max_grad_norm)
        self.optimizer.step()
        self.mark("optimizer")
        look.add_measured(self.learner.measured(look.step))
        return look

    def settle(self, look: Look | None) -> Look | None:
        """Write down what a step tells. Raises UserError where, seen late, it should not have been taken."""
        if look is self.pending:
            self.pending = None
        if look is not None and not look.left_out and not (self.late and self._left_out(look)):
            self.book.add(look.record((*LOSSES, self.inputs.beside)))
        return look

    def _left_out(self, look: Look) -> bool:
        """Whether the step is not finite, with a line in the log. UserError for one more than --skip-not-finite.

        Under float16 a gradient may overflow: the loss scaler leaves such a step out itself, and scales down.
        """
        what = look.problem(of_gradient=self.accelerator.scaler is None)
        if not what:
            return False
        where = f"{what} at step {look.step}"
        images = [image.path for image in self.inputs.images]
        where += suspects(look.passes, self.learner, images, look.suspected())
        if self.book.skipped >= self.config.skip_not_finite:
            raise UserError(
                f"{where}: nothing is saved of it, the last state in {self.progress.states} stays; lower --lr, use "
                "--mixed-precision bf16 or no, look at the image, or allow some such steps with --skip-not-finite"
            )
        self.book.add({"step": look.step, "skipped": where})
        look.left_out = True
        return True

    def preview(self, taken: int, again: bool = True) -> None:
        """Draw the sample images; they have seeds of their own and leave the training as it is."""
        path = self.progress.folder / "previews" / f"step-{taken:06d}.png"
        main = self.accelerator.is_main_process
        if (main or self.config.shard) and (again or not path.exists()):
            images = sample(
                self.learner.backbone,
                self.preview_prompts,
                [self.config.seed] * len(self.preview_prompts),
                size=self.config.resolution,
                embeddings=self.embeddings,
                negative=self.config.preview_negative,
            )
            if main:
                labels = self.preview_prompts if len(images) > 1 else ()
                facts = {"prompt": "\n".join(self.preview_prompts), "step": str(taken)}
                save_png(path, grid(images, len(images), column_labels=labels), facts)

    def save_state(self) -> None:
        """All that the next step depends on. Raises UserError rather than keep what is not finite."""
        self.settle(self.pending)
        check_weights(self.learner.parameters, self.step + 1, self.progress.states)
        if self.accelerator.is_main_process:
            tensors, meta = pack(self.kept, self.optimizer, self.accelerator.scaler)
            meta = {"settings": self.progress.settings, **meta}
            save_state(self.progress.states, self.step + 1, tensors, meta)

    def finish(self) -> None:
        """Write the result, and close what is open."""
        if self.accelerator.is_main_process:
            self.learner.save(self.progress.folder, facts_of(self.config))
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()


def _due(every: int, step: int) -> bool:
    return every > 0 and (step + 1) % every == 0
