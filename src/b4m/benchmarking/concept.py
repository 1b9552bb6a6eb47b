"""One concept from a command to a file that draws it: ours beside what people use, each a process of its own.

`b4m bench --rivals all`. All train on the same images for the same number of target samples; whatever a contender does
besides (partners, start-up, encoding) is in its seconds.
"""

import shutil
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
from ..config.stages import ContentConfig
from ..core.errors import UserError
from ..core.where import locate, matches, same
from ..data.folder import look
from ..methods.low_rank import LoraContentConfig
from .read_back import CLASS, IMAGES, WORDS, Reader, newest
from .settings import BenchConfig, words_of

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
    file = newest(contender.folder)
    if file is None:
        raise UserError(
            f"{contender.name}: left no .safetensors in {contender.folder}; let it write to {{output}}"
        )
    return reader.read(contender.role, file, row["seconds"])


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
    values = {  # settings.FILLED, but for the output
        "base-model": locate(ours.base_model),
        "images": pictures(folder),
        "prompt": f"a photo of {WORDS}",
        "steps": ours.steps,
        "batch": ours.target_rows * ours.gradient_accumulation,
        "rank": lora.rank,
        "lr": lora.lr,
        "resolution": ours.resolution,
        "mixed-precision": ours.mixed_precision,
        "seed": ours.seed,
    }
    flags = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    for name, cached in (("peft + accelerate by hand", []), ("the same, encoded once", ["--cached"])):
        out = folder / f"by-hand{len(cached)}"
        script = [sys.executable, "-m", "b4m.benchmarking.by_hand", *flags, "--output", str(out), *cached]
        yield Contender(name, script, out)
    if config.peer is not None:
        out = folder / PEER
        yield Contender(PEER, filled(config.peer, {**values, "output": out}), out)


def pictures(folder: Path) -> Path:
    """The images alone in a folder of their own: other tools try to open captions as images."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for path in look(Path(locate(IMAGES))).images:
        shutil.copyfile(path, images / path.name)
    return images


def filled(command: str, values: Mapping[str, Any]) -> list[str]:
    """A peer's command line with {output}, {images}, {steps} and the like filled in."""
    words = words_of(command)
    for name, value in values.items():
        words = [word.replace("{" + name + "}", str(value)) for word in words]
    return words


@dataclass(frozen=True)
class Usage:
    """What a process and those that it has started have used, at one look."""

    when: float  # of the clock that files are dated by
    cpu: float  # seconds
    memory: int  # bytes
    gpu: int  # bytes


def measured(contender: Contender) -> dict[str, float]:
    """Run it to its end. -> status; seconds, CPU seconds and megabytes at most, until its file was written last.

    What it does with the file afterwards (Diffusers' script loads it once more) is in `process_seconds` alone.
    """
    contender.folder.mkdir(parents=True, exist_ok=True)
    looks, free, began = [], _gpu_free(), time.time()
    try:
        process = subprocess.Popen(contender.argv, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"--peer {contender.argv[0]}: cannot be run ({error.strerror})") from error
    watched = psutil.Process(process.pid)
    try:
        while process.poll() is None:
            looks.append(_usage(watched, free))
            time.sleep(POLL)
    except BaseException:
        process.kill()
        process.wait()
        raise
    ended = time.time()
    file = newest(contender.folder)
    until = ended if file is None else file.stat().st_mtime
    before = [look for look in looks if look.when <= until] or looks[:1]
    return {
        "status": process.returncode,
        "seconds": until - began,
        "process_seconds": ended - began,
        "cpu_seconds": max((look.cpu for look in before), default=0.0),
        "peak_mb": max((look.memory for look in before), default=0) / 2**20,
        "peak_gpu_mb": max((look.gpu for look in before), default=0) / 2**20,
    }


def _usage(process: psutil.Process, gpu_free: int) -> Usage:
    """gpu_free: bytes before it was started."""
    when, seconds, held = time.time(), 0.0, 0
    try:
        for one in (process, *process.children(recursive=True)):
            times = one.cpu_times()
            seconds += times.user + times.system
            held += one.memory_info().rss
    except psutil.NoSuchProcess:  # it has just ended
        pass
    return Usage(when, seconds, held, gpu_free - _gpu_free())


def _gpu_free() -> int:
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 0
