"""One concept from a command to a file that draws it: ours beside what people use, each a process of its own.

`b4m bench --rivals all`. All train on the same images for the same number of target samples; whatever a contender does
besides (partners, start-up, encoding) is in its seconds.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from ..config.presets import EMBEDDED
from ..config.resolve import resolve
from ..config.training import ContentConfig
from ..core.errors import UserError
from ..core.where import locate, matches, same
from ..methods.low_rank import LoraContentConfig
from .read_back import CLASS, IMAGES, WORDS, Reader, newest
from .settings import BenchConfig

PARTNERS = "examples/references/partners/styles/*.png"
POLL = 0.05  # seconds between two looks at a process's memory
PEER = "peer"


@dataclass(frozen=True)
class Contender:
    """A process that leaves a file in `folder`. argv: program and arguments. role: what the file is attached as."""

    name: str
    argv: Sequence[str]
    folder: Path
    role: str = "lora_file"


def concepts(config: BenchConfig, folder: Path) -> list[dict[str, Any]]:
    """A row for each contender: seconds to the file and to the first image, CPU seconds, memory, score.

    Raises UserError where one of our own fails; a peer's failure is in its row.
    """
    base = config.base_model or EMBEDDED
    ours = settings(config, base, folder)
    cuda = config.device != "cpu" and torch.cuda.is_available()
    reader = Reader(base, ours.mixed_precision, "cuda" if cuda else "cpu", ours.resolution)
    rows = []
    for contender in contenders(config, ours, folder):
        print(f"a whole concept: {contender.name}", flush=True)
        row = {"name": contender.name, "target_samples": samples(ours), **measured(contender)}
        try:
            row |= _read_back(reader, contender, row)
        except UserError as error:
            if contender.name != PEER:
                raise
            row["problem"] = str(error)
        rows.append(row)
    return rows


def _read_back(reader: Reader, contender: Contender, row: Mapping[str, Any]) -> dict[str, float]:
    """What `Reader.read` says of its file. Raises UserError for a process that failed, or has left none that fits."""
    if row["status"]:
        raise UserError(f"{contender.name}: ended with status {row['status']}; see its lines above")
    return reader.read(contender.role, newest(contender.folder, contender.name), row["seconds"])


def settings(config: BenchConfig, base: str, folder: Path) -> ContentConfig:
    """The content's training, as its preset has it, or in so many steps as the benchmark asks for."""
    embedded = same(base, EMBEDDED)
    ours = resolve(
        ContentConfig,
        preset=_preset(base),
        base_model=base,
        mixed_precision="no" if embedded else config.mixed_precision,
        gradient_checkpointing=config.gradient_checkpointing,
        content_dir=IMAGES,
        partner_dirs=matches(PARTNERS),
        content_class=CLASS,
        output_dir=str(folder / "ours"),
    )
    sized = ours if embedded else replace(ours, resolution=config.resolution)
    return sized if config.concept_steps is None else replace(sized, steps=config.concept_steps)


def _preset(base: str) -> str:
    return "embedded" if same(base, EMBEDDED) else "sdxl"


def samples(ours: ContentConfig) -> int:
    """Samples of the target in the whole training."""
    return ours.steps * ours.target_rows * ours.gradient_accumulation


def contenders(config: BenchConfig, ours: ContentConfig, folder: Path) -> Iterator[Contender]:
    """Ours first; every one in a folder of its own."""
    preset = _preset(ours.base_model)
    common = ["--preset", preset, "--base-model", ours.base_model, "--steps", str(ours.steps)]
    common += ["--resolution", str(ours.resolution)]
    common += ["--content-dir", IMAGES, "--content-class", CLASS, "--mixed-precision", ours.mixed_precision]
    common += ["--gradient-checkpointing"] * ours.gradient_checkpointing
    b4m = [sys.executable, "-m", "b4m"]
    partners = ["--partner-dirs", *matches(PARTNERS)]
    out = folder / "ours"
    argv = [*b4m, "train-content", *common, *partners, "--output-dir", str(out)]
    yield Contender("ours", argv, out, "content_file")
    out = folder / "lora"
    argv = [*b4m, "train", "lora:content", *common, "--output-dir", str(out)]
    yield Contender("ordinary LoRA in our loop", argv, out)
    lora = resolve(LoraContentConfig, preset=preset, base_model=ours.base_model, content_dir=IMAGES)
    values = {
        "base-model": locate(ours.base_model),
        "images": locate(IMAGES),
        "prompt": f"a photo of {WORDS}",
        "steps": ours.steps,
        "batch": ours.target_rows * ours.gradient_accumulation,
        "rank": lora.rank,
        "lr": lora.lr,
        "resolution": ours.resolution,
        "mixed-precision": ours.mixed_precision,
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    for name, cached in (("peft + accelerate by hand", []), ("the same, encoded once", ["--cached"])):
        out = folder / f"by-hand{len(cached)}"
        script = [sys.executable, "-m", "b4m.benchmarking.by_hand", *flags, "--output", str(out), *cached]
        yield Contender(name, script, out)
    if config.peer is not None:
        out = folder / PEER
        yield Contender(PEER, filled(config.peer, {**values, "output": out}), out)


def filled(command: str, values: Mapping[str, Any]) -> list[str]:
    """A peer's command line with {output}, {images}, {steps} and the like filled in."""
    words = shlex.split(command)
    for name, value in values.items():
        words = [word.replace("{" + name + "}", str(value)) for word in words]
    return words


def measured(contender: Contender) -> dict[str, float]:
    """Run it to its end: seconds, CPU seconds, megabytes at most (of all its processes; and of the GPU), status."""
    contender.folder.mkdir(parents=True, exist_ok=True)
    cpu, peak, gpu = 0.0, 0, 0
    free = _gpu_free()
    began = time.perf_counter()
    try:
        process = subprocess.Popen(contender.argv, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"--peer {contender.argv[0]}: cannot be run ({error.strerror})") from error
    watched = psutil.Process(process.pid)
    try:
        while process.poll() is None:
            now = _usage(watched)
            cpu, peak = max(cpu, now[0]), max(peak, now[1])
            gpu = max(gpu, free - _gpu_free())
            time.sleep(POLL)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return {
        "status": process.returncode,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": cpu,
        "peak_mb": peak / 2**20,
        "peak_gpu_mb": gpu / 2**20,
    }


def _usage(process: psutil.Process) -> tuple[float, int]:
    """CPU seconds and bytes of a process and those that it has started."""
    seconds, held = 0.0, 0
    try:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            seconds += times.user + times.system
            held += one.memory_info().rss
    except psutil.NoSuchProcess:  # it has just ended
        pass
    return seconds, held


def _gpu_free() -> int:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
