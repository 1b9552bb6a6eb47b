"""The main job on the embedded base: a held-out content, a held-out style, both together, measured and shown.

    bash code/quickstart.sh --content car --style chalk

Writes content.safetensors, style.safetensors, pytorch_lora_weights.safetensors, grid.png and report.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

import torch
from PIL import Image

from b4m.apps.cli import quiet
from b4m.backbones.protocol import Backbone
from b4m.backbones.registry import open_backbone
from b4m.config.presets import EMBEDDED, PRESETS
from b4m.config.resolve import resolve
from b4m.config.training import JOBS, TrainConfig
from b4m.core.errors import UserError
from b4m.core.storage import write_atomic, write_text
from b4m.data.images import load_folder
from b4m.evaluation.evaluate import load_extractors, score
from b4m.evaluation.manifest import Shot, in_plain_words, write_manifest
from b4m.evaluation.metrics import Interval, interval
from b4m.sampling.attach import attach
from b4m.sampling.grid import grid
from b4m.sampling.sample import sample, save_png
from b4m.training.loop import TrainResult, train

REFERENCES = ROOT / "examples" / "references"
SEEDS = range(16)  # of the scored pictures, for each of the four prompts
GRID_SEEDS = (0, 1)
# What was learned is what guidance strengthens; as a sum, content and style disturb each other least: docs/method.md.
GUIDED = {"guidance": 1.5, "negative": "base"}
SUMMED = {"compose": "predictions"}


def prompts(content: str, style: str) -> list[str]:
    """What is asked of content and style together."""
    both = f"a snq {content} in w@z {style} style"
    return [both, *(f"{both} on a {ground} background" for ground in ("white", "navy", "teal"))]


def train_all(content: str, style: str, output: Path) -> dict[str, tuple[TrainConfig, TrainResult]]:
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
    jobs = {
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
    done = {}
    for stage, settings in jobs.items():
        config = resolve(
            JOBS[stage],
            preset="embedded",
            base_model=EMBEDDED,
            output_dir=str(output / stage),
            **settings,
        )
        done[stage] = config, train(config)
    return done


def draw(
    backbone: Backbone, files: dict[str, Path], ways: dict[str, str], asked: list[str], seeds
) -> list[Image.Image]:
    """Every prompt with every seed, with `files` attached (none: the base model). ways: settings of `sample`."""
    attach(backbone, **{name: str(path) for name, path in files.items()})
    texts = [text for text in asked for _ in seeds]
    return sample(backbone, texts, [*seeds] * len(asked), **GUIDED, **ways)


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
    drawn: dict[str, list[Image.Image]], asked: list[str], content: str, style: str, output: Path
) -> dict[str, dict[str, Interval]]:
    """Every variant's alignment scores and the judges' verdicts, with 95 % intervals over its pictures."""
    labels = {"content": f"{content} instance", "style": style}
    shots = []
    for variant, pictures in drawn.items():
        for number, (picture, (text, seed)) in enumerate(zip(pictures, product(asked, SEEDS), strict=True)):
            path = output / "pictures" / variant.replace(" ", "-") / f"{number:02d}_seed{seed}.png"
            save_png(path, picture, {"prompt": text, "seed": str(seed)})
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


def show(columns: dict[str, list[Image.Image]], asked: list[str], content: str, style: str) -> Image.Image:
    """References and every variant's pictures side by side, a row for each prompt and seed."""
    size = next(iter(columns.values()))[0].width
    rows = [f"{text} (seed {seed})" for text in asked for seed in GRID_SEEDS]

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
    lines = ["", f"{'':30}" + "".join(f"{title:>22}" for title in SCORES.values())]
    for variant, row in scores.items():
        cells = [
            "{:.0%} [{:.0%}, {:.0%}]".format(*value)
            if name.endswith("right")
            else "{:.3f} [{:.3f}, {:.3f}]".format(*value)
            for name, value in row.items()
        ]
        lines.append(f"{variant:30}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--content", default="car", choices=[p.name for p in sorted((REFERENCES / "content").iterdir())]
    )
    parser.add_argument(
        "--style", default="chalk", choices=[p.name for p in sorted((REFERENCES / "style").iterdir())]
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/quickstart"))
    options = parser.parse_args()
    content, style, output = options.content, options.style, options.output
    start = time.time()
    quiet()

    stages = train_all(content, style, output)
    pair = {"content_file": stages["content"][1].path, "style_file": stages["style"][1].path}
    variants = {
        "base model": ({}, {}),
        "content only": ({"content_file": pair["content_file"]}, {}),
        "style only": ({"style_file": pair["style_file"]}, {}),
        "both, fused by the second stage": ({"lora_file": stages["second"][1].path}, {}),
        "both, as a sum of predictions": (pair, SUMMED),
    }
    backbone = open_backbone(EMBEDDED)
    asked = prompts(content, style)
    shown = [
        asked[0],
        asked[2],
        f"a photo of a snq {content} on a teal background",
        f"a purple house in w@z {style} style",
    ]
    columns = {name: draw(backbone, *how, shown, GRID_SEEDS) for name, how in variants.items()}
    for _, result in stages.values():
        write_atomic(
            output / result.path.name, lambda partial, made=result.path: shutil.copyfile(made, partial)
        )
    save_png(output / "grid.png", show(columns, shown, content, style), {"content": content, "style": style})
    drawn = {name: draw(backbone, *how, asked, SEEDS) for name, how in variants.items()}
    scores = measure(drawn, asked, content, style, output)

    report = {
        "content": content,
        "style": style,
        "seconds": round(time.time() - start, 1),
        "stages": {
            name: {
                "settings": asdict(config),
                "seconds": result.seconds,
                "peak_mb": result.peak_mb,
                "file": str(result.path),
                "losses": result.losses,
            }
            for name, (config, result) in stages.items()
        },
        "scores": {
            "prompts": asked,
            "seeds": [*SEEDS],
            "pictures": len(asked) * len(SEEDS),
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
    print(table(scores), f"{len(asked) * len(SEEDS)} pictures each; intervals over pictures", sep="\n")
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
