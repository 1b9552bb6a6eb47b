"""`b4m bench`: seconds, arithmetic and memory of a step, ours and its rivals' in turn, in one run."""

import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from ..backbones.attention import Kernels
from ..backbones.dry_pass import meta_copy
from ..backbones.frozen import compile_blocks, convolutions, is_channels_last, place
from ..backbones.protocol import Backbone
from ..core.errors import UserError
from ..core.process import package_version
from ..core.storage import write_text
from ..maths.adapter import Adapter
from ..maths.riemannian import RiemannianAdamW
from ..maths.stacks import Stacks
from ..methods.factors import FactorLearner, spec_of
from ..methods.registry import method_of
from ..training.launch import launch
from ..training.logbook import Logbook
from ..training.loop import Loop, Mark, no_mark
from ..training.progress import Progress
from ..training.start import Ready
from .concept import concepts
from .models import base, beside, job, random_cache
from .profiling import profiled, tflop
from .report import ratios, row
from .rivals import LoopedInverse, LoraAdapter, PublishedFlow, peft_riemannian, sharing
from .settings import BenchConfig

GUIDED_SAMPLES = 2  # of one denoising step: with the prompt, and without


class Clock:
    """Seconds of each phase of a step, by the device's own clock where it has one."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks = [("", self._now())]

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def mark(self, phase: str) -> None:
        """`phase` has just ended, as far as the host has come."""
        self._marks.append((phase, self._now()))

    def seconds(self) -> dict[str, float]:
        """By phase; waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        phases: dict[str, float] = {}
        for (_, before), (phase, after) in zip(self._marks, self._marks[1:], strict=False):
            passed = before.elapsed_time(after) / 1000 if self._cuda else after - before
            phases[phase] = phases.get(phase, 0.0) + passed
        return phases


@dataclass
class Contender:
    """One thing to measure. step(number, mark): takes step `number`, calls mark as each phase ends."""

    group: str  # "stage one" | "second stage" | "optimizer" | "inference"; times compare within a group
    name: str
    step: Callable[[int, Mark], None]
    rows: int
    tflop: float = 0.0
    peak_mb: float = 0.0
    attention: dict[str, int] = field(default_factory=dict)  # calls of each of torch's kernels
    operators: list[dict] = field(default_factory=list)
    times: list[dict[str, float]] = field(default_factory=list)


def bench(config: BenchConfig) -> dict:
    """Measure all contenders in turn and write JSON. Raises UserError for a device that is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        contenders, facts = _contenders(config, device, Path(folder), stack)
        for number in range(config.warm_up + config.steps):
            for contender in contenders:
                clock = Clock(device)
                contender.step(number, clock.mark)
                if number >= config.warm_up:
                    contender.times.append(clock.seconds())
    rates = {name: matmul_rate(device, dtype) for name, dtype in RATES.items()}
    report = {"settings": dataclasses.asdict(config), "machine": machine(device), "model": facts}
    rows = [row(contender, rates) for contender in contenders]
    report |= {"matmul_tflop_per_second": rates, "rows": rows, "ratios": ratios(rows)}
    write_text(config.output, json.dumps(report, indent=1) + "\n")  # kept if what follows is cut
    if config.rivals == "all":
        with tempfile.TemporaryDirectory() as folder:
            report["concepts"] = concepts(config, Path(folder))
    write_text(config.output, json.dumps(report, indent=1) + "\n")
    return report


RATES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of the fastest of several square products: what the device can do, as it is set up here."""
    size, best = (8192 if device.type == "cuda" else 1024), float("inf")
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(8):
        clock = Clock(device)
        a @ b
        clock.mark("product")
        best = min(best, clock.seconds()["product"])
    return 2 * size**3 / best / 1e12


def machine(device: torch.device) -> dict:
    """What a number can only be read with."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else _cpu()
    versions = {package: package_version(package) for package in ("b4m", "torch", "diffusers", "peft")}
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **versions,
    }


def _cpu() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


def _contenders(
    config: BenchConfig, device: torch.device, folder: Path, stack: ExitStack
) -> tuple[list[Contender], dict]:
    """Everything to be measured, each step taken once: its arithmetic and memory are known then.

    stack: to be closed when the last step has been taken.
    """
    model = base(config, device)
    bare = model.denoiser
    contenders = []
    one = _loop(config, "content", folder, model)
    contenders.append(_training("stage one", "ours", one))
    second = _loop(config, "joint", folder, model, RiemannianLearner)
    _randomize(_learner(second).stacks.pairs)
    contenders.append(_training("second stage", "ours", second))
    contenders.append(Contender("inference", "base", _denoising(model, second), GUIDED_SAMPLES))
    if is_channels_last(bare):
        first = _denoising(_channels_first(model), second)
        contenders.append(Contender("inference", "base, channels first", first, GUIDED_SAMPLES))
    folded = _denoising(_folded(model, second, stack), second)
    contenders.append(Contender("inference", "ours", folded, GUIDED_SAMPLES))
    dialled = _denoising(second.learner.backbone, second)
    contenders.append(Contender("inference", "ours, dials of each sample", dialled, GUIDED_SAMPLES))
    if config.rivals != "none":
        contenders += _rivals(config, folder, model, one, second)
    for contender in contenders:
        with Kernels() as attention:
            contender.tflop = tflop(lambda step=contender.step: step(0, no_mark))
        contender.attention = dict(attention.calls)
        contender.operators, contender.peak_mb = profiled(
            lambda step=contender.step: step(1, no_mark), device
        )
    if config.compile:
        for loop in (one, second):
            compile_blocks(loop.learner.backbone.denoiser)
    facts = {
        "parameters": sum(p.numel() for p in bare.parameters()),
        "layers": len(_learner(one).adapter.layers),
        "learnable": sum(p.numel() for p in one.learner.parameters),
        "channels_last": is_channels_last(bare),
    }
    return contenders, facts


class RiemannianLearner(FactorLearner):
    """Both factors, from nothing, under the second stage's optimizer."""

    def optimizer(self) -> torch.optim.Optimizer:
        return RiemannianAdamW(self.stacks.pairs)


def _loop(
    config: BenchConfig,
    stage: str,
    folder: Path,
    model: Backbone,
    learner: type[FactorLearner] = FactorLearner,
    make: Callable | None = None,
) -> Loop:
    """A training loop as `b4m` itself makes it, on a random cache; make: another adapter in place of ours."""
    settings = job(config, stage, folder)
    accelerator = launch(settings.mixed_precision, settings.tracker, settings.output_dir)
    inputs = method_of(type(settings)).task(settings).inputs
    backbone = beside(model, sharing(model.denoiser))
    adapter = (make or partial(Adapter.install, spec=spec_of(settings), layers=settings.layers))(
        backbone.denoiser
    )
    lr = {"content": settings.lr, "style": getattr(settings, "partner_lr", settings.lr)}
    made: Any = learner(backbone, inputs, settings, adapter, settings.routing, lr)
    cache = random_cache(backbone.denoiser, len(inputs.images), settings.resolution)
    place(backbone.denoiser, settings, backbone.denoiser.device)
    progress = Progress(folder / stage, folder / stage / settings.result, {})
    book = Logbook(progress.folder, accelerator, 0)
    return Loop(settings, accelerator, inputs, Ready(made, cache, "", None), progress, book)


def _learner(loop: Loop) -> FactorLearner:
    """The one that `_loop` has made."""
    return cast(FactorLearner, loop.learner)


def _training(group: str, name: str, loop: Loop) -> Contender:
    """The loop's own step, which tells when its phases end."""

    def step(number: int, mark: Mark) -> None:
        loop.step, loop.mark = number, mark
        loop.learner.zero_grad()
        loop.passes = []
        loop.advance(loop.average(loop.micro_step(0), stop=False))

    return Contender(group, name, step, loop.inputs.samples)


@torch.no_grad()
def _randomize(pairs) -> None:
    """B and D as after some training: an optimizer's work must not depend on zeros."""
    for pair in pairs:
        for factor in pair:
            factor.normal_(std=0.02)


def _denoising(backbone: Backbone, loop: Loop) -> Callable[[int, Mark], None]:
    """One guided denoising step of one image."""
    images = torch.zeros(GUIDED_SAMPLES, dtype=torch.long, device=backbone.denoiser.device)
    conditions, timesteps = loop.cache.conditions(images), images + 500
    noisy = torch.stack([loop.cache.latents[0]] * GUIDED_SAMPLES)

    @torch.no_grad()
    def step(number: int, mark: Mark) -> None:
        backbone.predict(noisy, timesteps, conditions)
        mark("forward")

    return step


def _channels_first(model: Backbone) -> Backbone:
    """The same model, its convolutions' weights in torch's usual order: whether the other one pays is to be seen."""
    backbone = beside(model, sharing(model.denoiser))
    for module in convolutions(backbone.denoiser):
        module.weight = torch.nn.Parameter(module.weight.detach().contiguous(), requires_grad=False)
    return backbone


def _folded(model: Backbone, loop: Loop, stack: ExitStack) -> Backbone:
    """The same model with an adapter of its own, folded until `stack` is closed, as `sample` folds it for one call."""
    backbone = beside(model, sharing(model.denoiser))
    like = _learner(loop).adapter
    adapter = Adapter.install(backbone.denoiser, like.spec, like.choice)
    _randomize(adapter.pairs())
    stack.enter_context(adapter.folding())
    return backbone


def _rivals(
    config: BenchConfig, folder: Path, model: Backbone, one: Loop, second: Loop
) -> Iterator[Contender]:
    adapter = _learner(one).adapter
    make = partial(LoraAdapter, layers=list(adapter.layers), rank=adapter.spec.rank)
    yield _training("stage one", "ordinary LoRA", _loop(config, "content", folder, model, make=make))
    if config.rivals in ("all", "steps"):
        yield _published_flow(model, one)
    makers = {
        "ours": _stacked_step,
        "peft": lambda pairs: peft_riemannian(pairs).step,
        "layer by layer": lambda pairs: LoopedInverse(pairs).step,
        "AdamW": lambda pairs: torch.optim.AdamW(sum(map(list, pairs), [])).step,
    }
    for name, make in makers.items():
        try:
            yield _optimizing(name, make, _learner(second).adapter.pairs())
        except ImportError as error:  # an older peft
            print(f"optimizer {name}: not measured ({error})")


def _published_flow(model: Backbone, one: Loop) -> Contender:
    bare = model.denoiser
    unet = meta_copy(bare).to_empty(device=bare.device).float()  # a copy of its own, in float32
    unet.load_state_dict(bare.state_dict())
    pixels = torch.stack([image.pixels for image in one.inputs.images]).to(unet.device)
    flow = PublishedFlow(beside(model, unet), _learner(one).adapter, one.cache, pixels)
    return Contender("stage one", "published flow", flow.step, len(pixels))


def _stacked_step(pairs) -> Callable[[], object]:
    """A step of ours from the layers' own gradients, as the training loop takes it."""
    stacks = Stacks(pairs)
    optimizer = RiemannianAdamW(stacks.pairs)
    return lambda: (stacks.gather(), optimizer.step())


def _optimizing(name: str, make: Callable[..., Callable], pairs) -> Contender:
    """A step of an optimizer on random factors and gradients of the second stage's shapes."""
    mine = [tuple(torch.nn.Parameter(factor.detach().clone()) for factor in pair) for pair in pairs]
    _randomize(mine)
    gradients = [[1e-3 * torch.randn_like(factor) for factor in pair] for pair in mine]
    move = make(mine)

    def step(number: int, mark: Mark) -> None:
        for pair, given in zip(mine, gradients, strict=True):
            for factor, gradient in zip(pair, given, strict=True):
                factor.grad = gradient.clone()
        mark("data")
        move()
        mark("optimizer")

    return Contender("optimizer", name, step, 0)
