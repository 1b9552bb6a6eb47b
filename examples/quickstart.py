"""The main job on the embedded base: a held-out content, a held-out style, both together, measured and shown.

    bash code/quickstart.sh --content bear --style yarn

Writes content.safetensors, style.safetensors, pytorch_lora_weights.safetensors, grid.png and report.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from itertools import product
from multiprocessing.synchronize import Semaphore
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parents[1]

import torch
from PIL import Image
from tqdm import tqdm

from b4m.apps.quiet import quiet
from b4m.backbones.protocol import Backbone
from b4m.backbones.registry import open_backbone
from b4m.config.presets import EMBEDDED, PRESETS
from b4m.config.resolve import resolve
from b4m.config.stages import JOBS
from b4m.config.training import TrainConfig
from b4m.core.errors import UserError
from b4m.core.storage import write_atomic, write_text
from b4m.data.images import load_folder
from b4m.evaluation.manifest import Shot, in_plain_words, write_manifest
from b4m.evaluation.metrics import Interval, interval
from b4m.evaluation.panel import load_extractors
from b4m.evaluation.score import score
from b4m.sampling.attach import attach
from b4m.sampling.grid import grid
from b4m.sampling.sample import sample, save_png
from b4m.training.loop import TrainResult, train

REFERENCES = ROOT / "examples" / "references"
GRID_SEEDS = (0, 1)
PROCESSES = 2  # content and style are trained side by side
READY = 10  # seconds that a process may take to begin
AT_ONCE = 10  # images of one task: few enough that no process waits long for the other
# What was learned is what guidance strengthens: docs/method.md.
GUIDED = {name: PRESETS["embedded"]["generate"][name] for name in ("steps", "guidance", "negative")}


def prompts(content: str, style: str) -> list[str]:
    """What is asked of content and style together."""
    places = ("", " on grass", " on a beach", " in the snow")
    return [f"a snq {content}{place} in w@z {style} style" for place in places]


def jobs(content: str, style: str, output: Path) -> dict[str, TrainConfig]:
    """Stage one for the content, stage one for the style, the second stage."""
    folders = {
        "content_dir": str(REFERENCES / "content" / content),
        "style_dir": str(REFERENCES / "style" / style),
    }
    partners = {
        kind: sorted(str(path) for path in (REFERENCES / "partners" / kind).glob("*.png"))
        for kind in ("styles", "contents")
    }
    words = {"content_class": content, "style_class": style}
    settings = {
        "content": {
            "content_dir": folders["content_dir"],
            "partner_dirs": partners["styles"],
            "content_class": content,
        },
        "style": {
            "style_dir": folders["style_dir"],
            "partner_dirs": partners["contents"],
            "style_class": style,
        },
        "second": {
            **folders,
            **words,
            "content_file": str(output / "content" / "content.safetensors"),
            "style_file": str(output / "style" / "style.safetensors"),
        },
    }
    common = {"preset": "embedded", "base_model": EMBEDDED}
    return {
        stage: resolve(JOBS[stage], output_dir=str(output / stage), **common, **own)
        for stage, own in settings.items()
    }


Asked = tuple[str, int]  # a prompt and a seed


def draw(files: Mapping[str, Path], asked: Sequence[Asked]) -> list[Image.Image]:
    """An image each, with `files` attached (none: the base model)."""
    backbone = model()
    attach(backbone, **{name: str(path) for name, path in files.items()})
    return sample(backbone, *zip(*asked, strict=True), **GUIDED)


@cache
def model() -> Backbone:
    """This process's own."""
    return open_backbone(EMBEDDED)


@contextmanager
def processes(number: int) -> Iterator[Executor]:
    """So many, which share the cores. Where something fails or is stopped, trainings save their step and end."""
    threads = max(1, (os.cpu_count() or 1) // number)
    start = "fork" if sys.platform == "linux" else "spawn"  # a fork has everything imported already
    context = multiprocessing.get_context(start)
    ready = context.Semaphore(0)  # counts those that can be told to stop
    pool = ProcessPoolExecutor(number, context, initializer=prepare, initargs=(threads, ready))
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield pool
    except BaseException:
        children = multiprocessing.active_children()
        for _ in children:  # a signal that comes while a process is being forked is lost
            ready.acquire(timeout=READY)
        for child in children:
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, before)


def prepare(threads: int, ready: Semaphore) -> None:
    """A process of the pool: it ends with the first one, to which a Ctrl-C is left; `train` listens to both itself."""
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    quiet()
    Thread(target=leave_with_parent, daemon=True).start()
    ready.release()


def leave_with_parent() -> None:
    """A process of the pool would wait for work for ever where the first one was killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def make(
    configs: Mapping[str, TrainConfig], asked: Sequence[Asked]
) -> tuple[dict[str, TrainResult], dict[str, dict[Asked, Image.Image]]]:
    """Every stage trained, every variant drawn, each as soon as what it needs is there."""
    drawn: dict[str, list[Future]] = {}
    with processes(min(PROCESSES, os.cpu_count() or 1)) as pool:

        def drawing(variant: str, files: Mapping[str, Path]) -> None:
            parts = [asked[start : start + AT_ONCE] for start in range(0, len(asked), AT_ONCE)]
            drawn[variant] = [pool.submit(draw, files, part) for part in parts]

        trained = {stage: pool.submit(train, configs[stage]) for stage in ("content", "style")}
        drawing("base model", {})
        drawing("content only", {"content_file": trained["content"].result().path})
        style = {"style_file": trained["style"].result().path}
        trained["second"] = pool.submit(train, configs["second"])
        drawing("style only", style)
        drawing("both, fused by the second stage", {"lora_file": trained["second"].result().path})
        for _ in tqdm(as_completed(sum(drawn.values(), [])), "drawing", sum(map(len, drawn.values()))):
            pass
        images = {
            variant: dict(zip(asked, [image for part in parts for image in part.result()], strict=True))
            for variant, parts in drawn.items()
        }
    return {stage: future.result() for stage, future in trained.items()}, images


SCORES = {
    "content": "content",
    "style": "style",
    "prompt": "prompt",
    "average": "average",
    "content_right": "content right",
    "style_right": "style right",
    "both_right": "both right",
}


def measure(
    drawn: Mapping[str, Mapping[Asked, Image.Image]],
    scored: Sequence[Asked],
    content: str,
    style: str,
    output: Path,
) -> dict[str, dict[str, Interval]]:
    """Every variant's alignment scores and the judges' verdicts, with 95 % intervals over its pictures."""
    labels = {"content": f"{content} instance", "style": f"{style} instance"}
    shots = []
    for variant, pictures in drawn.items():
        for number, (text, seed) in enumerate(scored):
            path = output / "pictures" / variant.replace(" ", "-") / f"{number:02d}_seed{seed}.png"
            save_png(path, pictures[text, seed], {"prompt": text, "seed": str(seed)})
            plain = in_plain_words(text, ("snq", "w@z"))
            folders = REFERENCES / "content" / content, REFERENCES / "style" / style
            shots.append(Shot(path, plain, seed, content, style, *folders, row=variant, labels=labels))
    write_manifest(output / "pictures", shots)
    specs = PRESETS["embedded"]["evaluate"]
    names = [str(ROOT / specs[f"{kind}_extractor"]) for kind in ("content", "style", "prompt")]
    judges = {kind: str(ROOT / specs[f"{kind}_judge"]) for kind in ("content", "style")}
    records = score(shots, load_extractors(*names, judges))
    return {
        variant: {
            name: interval([record[name] for record in records if record["row"] == variant])
            for name in SCORES
        }
        for variant in drawn
    }


def show(
    drawn: Mapping[str, Mapping[Asked, Image.Image]], asked: list[str], content: str, style: str
) -> Image.Image:
    """References and every variant's pictures side by side, a row for each prompt and seed."""
    shown = [*product(asked, GRID_SEEDS)]
    columns = {variant: [images[each] for each in shown] for variant, images in drawn.items()}
    size = next(iter(columns.values()))[0].width
    rows = [f"{text} (seed {seed})" for text, seed in shown]

    def references(kind: str, name: str) -> list[Image.Image]:
        found = [
            Image.open(picture.path).convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
            for picture in load_folder(str(REFERENCES / kind / name), size)
        ]
        return [found[i % len(found)] for i in range(len(rows))]

    table = {
        "content reference": references("content", content),
        "style reference": references("style", style),
        **columns,
    }
    cells = [pictures[row] for row in range(len(rows)) for pictures in table.values()]
    return grid(cells, len(table), rows, list(table))


def table(scores: dict[str, dict[str, Interval]]) -> str:
    """The scores as text: alignment as numbers, verdicts in percent."""
    lines = ["", f"{'':32}" + "".join(f"{title:>22}" for title in SCORES.values())]
    for variant, row in scores.items():
        cells = [
            "{:.0%} [{:.0%}, {:.0%}]".format(*value)
            if name.endswith("right")
            else "{:.3f} [{:.3f}, {:.3f}]".format(*value)
            for name, value in row.items()
        ]
        lines.append(f"{variant:32}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--content", default="teapot", choices=[p.name for p in sorted((REFERENCES / "content").iterdir())]
    )
    parser.add_argument(
        "--style", default="watercolour", choices=[p.name for p in sorted((REFERENCES / "style").iterdir())]
    )
    parser.add_argument("--seeds", type=int, default=4, help="scored pictures of each prompt (default 4)")
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    options = parser.parse_args()
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds}: must be at least 1")
    content, style, output = options.content, options.style, options.output
    start = time.time()
    quiet()

    asked = prompts(content, style)
    shown = [
        *asked[:3],
        f"a photo of a snq {content} in the snow",
    ]
    scored = [*product(asked, range(options.seeds))]
    wanted = dict.fromkeys([*scored, *product(shown, GRID_SEEDS)])
    configs = jobs(content, style, output)
    trained, drawn = make(configs, [*wanted])
    for result in trained.values():
        write_atomic(
            output / result.path.name, lambda partial, made=result.path: shutil.copyfile(made, partial)
        )
    save_png(output / "grid.png", show(drawn, shown, content, style), {"content": content, "style": style})
    scores = measure(drawn, scored, content, style, output)

    report = {
        "content": content,
        "style": style,
        "seconds": round(time.time() - start, 1),
        "stages": {
            name: {
                "settings": asdict(configs[name]),
                "seconds": result.seconds,
                "peak_mb": result.peak_mb,
                "file": str(result.path),
                "losses": result.losses,
            }
            for name, result in trained.items()
        },
        "scores": {
            "prompts": asked,
            "seeds": [*range(options.seeds)],
            "pictures": len(scored),
            **GUIDED,
            "intervals": "mean, low, high: 95 % bootstrap over the pictures of this one pair",
            **{
                variant: {name: value._asdict() for name, value in row.items()}
                for variant, row in scores.items()
            },
        },
        "threads": torch.get_num_threads(),
    }
    write_text(output / "report.json", json.dumps(report, indent=1) + "\n")
    print(table(scores), f"{len(scored)} pictures each; intervals over pictures", sep="\n")
    print(
        f"\n{report['seconds']:.0f} s. Look at {output / 'grid.png'}; all numbers are in {output / 'report.json'}"
    )
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except UserError as error:
        print(f"b4m: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
