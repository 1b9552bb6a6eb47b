"""`b4m bench`: seconds, arithmetic and memory of a step, ours and its rivals' in turn, in one run."""

import dataclasses
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .adapter import Adapter
from .bench_models import base, job, random_cache
from .bench_profile import profiled, tflop
from .bench_report import ratios, row
from .errors import UserError
from .footprint import meta_copy
from .frozen import compile_blocks
from .measure_config import BenchConfig
from .process import package_version
from .riemannian import RiemannianAdamW
from .rivals import LoopedInverse, LoraAdapter, PublishedFlow, peft_riemannian, sharing
from .stacks import Stacks
from .storage import write_text
from .train import Run

Mark = Callable[[str], None]
GUIDED_ROWS = 2  # of one denoising step: with the prompt, and without


def _unmarked(phase: str) -> None:
    """A step that is not timed."""


class Clock:
    """Seconds of each phase of a step, by the device's own clock where it has one."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks = [("", self._now())]

    def _now(self):
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
    operators: list[dict] = field(default_factory=list)
    times: list[dict[str, float]] = field(default_factory=list)


def bench(config: BenchConfig) -> dict:
    """Measure all contenders in turn, print a table, write JSON. Raises UserError for a device that is not there."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no CUDA device here")
    cuda = config.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        contenders, facts = _contenders(config, device, Path(folder))
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


def _contenders(config: BenchConfig, device: torch.device, folder: Path) -> tuple[list[Contender], dict]:
    """Everything to be measured, each step taken once: its arithmetic and memory are known then."""
    model = base(config, device)
    bare = model.unet
    contenders = []
    one = _run(config, "content", folder, model, sharing(bare), None)
    contenders.append(_training("stage one", "ours", one))
    second = _run(config, "joint", folder, model, sharing(bare), None)
    _randomize(second.stacks.pairs)
    second.optimizer = second.accelerator.prepare_optimizer(RiemannianAdamW(second.stacks.pairs))
    contenders.append(_training("second stage", "ours", second))
    contenders.append(Contender("inference", "base", _denoising(bare, second), GUIDED_ROWS))
    contenders.append(
        Contender("inference", "ours, two dials", _denoising(second.pipe.unet, second), GUIDED_ROWS)
    )
    if config.rivals != "none":
        contenders += _rivals(config, folder, model, one, second)
    for contender in contenders:
        contender.tflop = tflop(lambda step=contender.step: step(0, _unmarked))
        contender.operators, contender.peak_mb = profiled(
            lambda step=contender.step: step(1, _unmarked), device
        )
    if config.compile:
        for run in (one, second):
            compile_blocks(run.pipe.unet)
    facts = {
        "parameters": sum(p.numel() for p in bare.parameters()),
        "layers": len(one.adapter.layers),
        "learnable": sum(p.numel() for p in one.stacks.parameters),
    }
    return contenders, facts


def _run(config: BenchConfig, stage: str, folder: Path, model, unet, make: Callable | None) -> Run:
    """A training run as `b4m` itself makes it, on a random cache; make: another adapter in place of ours."""
    run = Run(job(config, stage, folder))
    run.find_state()
    run.step = 0
    run.adapter = make(unet) if make else Adapter.install(unet, run.stage.spec, run.stage.layers)
    pipe = type(model)(unet=unet, scheduler=model.scheduler)
    run.equip(pipe, random_cache(unet, run.stage, config.resolution))
    return run


def _training(group: str, name: str, run: Run) -> Contender:
    """The loop's own step, with a mark where its phases meet."""
    inner, backward = run.denoiser, run.accelerator.backward

    def step(number: int, mark: Mark) -> None:
        def denoiser(*rows) -> Callable:
            predict = inner(*rows)

            def timed(*given) -> torch.Tensor:
                mark("data")
                return predict(*given)

            return timed

        def timed_backward(loss: torch.Tensor) -> None:
            mark("forward")
            backward(loss)
            mark("backward")

        run.denoiser, run.accelerator.backward, run.step = denoiser, timed_backward, number
        run.stacks.zero_grad()
        loss, *_ = run.average(run.micro_step(0), stop=False)
        run.advance(loss)
        mark("optimizer")

    return Contender(group, name, step, run.stage.rows)


@torch.no_grad()
def _randomize(pairs) -> None:
    """B and D as after some training: an optimizer's work must not depend on zeros."""
    for pair in pairs:
        for half in pair:
            half.normal_(std=0.02)


def _denoising(unet, run: Run) -> Callable[[int, Mark], None]:
    """One guided denoising step of one picture."""
    rows = torch.zeros(GUIDED_ROWS, dtype=torch.long, device=unet.device)
    given = run.cache.conditioning(rows)
    noisy, timesteps = run.cache.latents[rows].to(unet.dtype), rows + 500

    @torch.no_grad()
    def step(number: int, mark: Mark) -> None:
        unet(noisy, timesteps, **given)
        mark("forward")

    return step


def _rivals(config: BenchConfig, folder: Path, model, one: Run, second: Run) -> Iterator[Contender]:
    layers = list(one.adapter.layers)
    lora = _run(
        config,
        "content",
        folder,
        model,
        sharing(model.unet),
        lambda unet: LoraAdapter(unet, layers, config.rank),
    )
    yield _training("stage one", "ordinary LoRA", lora)
    if config.rivals == "all":
        yield _published_flow(model, one)
    makers = {
        "ours": _stacked_step,
        "peft": lambda pairs: peft_riemannian(pairs).step,
        "layer by layer": lambda pairs: LoopedInverse(pairs).step,
        "AdamW": lambda pairs: torch.optim.AdamW(sum(map(list, pairs), [])).step,
    }
    for name, make in makers.items():
        try:
            yield _optimizing(name, make, second.adapter.pairs())
        except ImportError as error:  # an older peft
            print(f"optimizer {name}: not measured ({error})")


def _published_flow(model, one: Run) -> Contender:
    unet = meta_copy(model.unet).to_empty(device=model.unet.device).float()  # a copy of its own, in float32
    unet.load_state_dict(model.unet.state_dict())
    pixels = torch.stack([picture.pixels for picture in one.stage.pictures]).to(unet.device)
    flow = PublishedFlow(unet, model.vae, one.adapter, one.cache, pixels, one.alphas_cumprod)
    return Contender("stage one", "published flow", flow.step, len(pixels))


def _stacked_step(pairs) -> Callable[[], object]:
    """A step of ours from the layers' own gradients, as the training loop takes it."""
    stacks = Stacks(pairs)
    optimizer = RiemannianAdamW(stacks.pairs)
    return lambda: (stacks.gather(), optimizer.step())


def _optimizing(name: str, make: Callable[..., Callable], pairs) -> Contender:
    """A step of an optimizer on random halves and gradients of the second stage's shapes."""
    mine = [tuple(torch.nn.Parameter(half.detach().clone()) for half in pair) for pair in pairs]
    _randomize(mine)
    gradients = [[1e-3 * torch.randn_like(half) for half in pair] for pair in mine]
    move = make(mine)

    def step(number: int, mark: Mark) -> None:
        for pair, given in zip(mine, gradients, strict=True):
            for half, gradient in zip(pair, given, strict=True):
                half.grad = gradient.clone()
        mark("data")
        move()
        mark("optimizer")

    return Contender("optimizer", name, step, 0)
