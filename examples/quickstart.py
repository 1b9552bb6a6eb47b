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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image
from world import classifier

from b4m.cli import quiet
from b4m.config import EMBEDDED, TrainConfig, resolve
from b4m.errors import UserError
from b4m.generate import attach, grid, sample, save_png
from b4m.images import load_folder
from b4m.sdxl import load_base
from b4m.storage import write_atomic
from b4m.train import TrainResult, train

REFERENCES = ROOT / "examples" / "references"
SEEDS = range(16)  # of the scored pictures, for each of the four prompts
GRID_SEEDS = (0, 1)
GUIDANCE = 2.5
DIALS = {"content_strength": 1.2}  # markings fade sooner than a style does: the content's dial is up


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
            TrainConfig,
            preset="embedded",
            stage=stage,
            base_model=str(ROOT / EMBEDDED),
            output_dir=str(output / stage),
            **settings,
        )
        done[stage] = config, train(config)
    return done


def draw(
    pipe: StableDiffusionXLPipeline, files: dict[str, Path], asked: list[str], seeds
) -> list[Image.Image]:
    """Every prompt with every seed, with `files` attached (none: the base model)."""
    attach(pipe, **{name: str(path) for name, path in files.items()})
    texts = [text for text in asked for _ in seeds]
    dials = DIALS if files else {}
    return sample(pipe, texts, [*seeds] * len(asked), guidance=GUIDANCE, **dials)


def score(pictures: list[Image.Image], content: str, style: str) -> dict[str, float]:
    """Share of pictures that the world's classifier takes for this very content, for its class, and for this style."""
    verdicts = classifier.name(classifier.load(), pictures)
    share = lambda test: sum(map(test, verdicts)) / len(verdicts)  # noqa: E731
    return {
        "content": share(lambda v: v.content == f"{content} instance"),
        "style": share(lambda v: v.style == style),
        "both": share(lambda v: v.content == f"{content} instance" and v.style == style),
        "class": share(lambda v: v.content.split()[0] == content),
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--content", default="car", choices=[p.name for p in sorted((REFERENCES / "content").iterdir())]
    )
    parser.add_argument(
        "--style", default="chalk", choices=[p.name for p in sorted((REFERENCES / "style").iterdir())]
    )
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "quickstart")
    options = parser.parse_args()
    content, style, output = options.content, options.style, options.output
    start = time.time()
    quiet()

    stages = train_all(content, style, output)
    pair = {"content_file": stages["content"][1].path, "style_file": stages["style"][1].path}
    variants = {
        "base model": {},
        "content only": {"content_file": pair["content_file"]},
        "style only": {"style_file": pair["style_file"]},
        "fused before the second stage": pair,
        "fused after it": {"lora_file": stages["second"][1].path},
    }
    pipe = load_base(str(ROOT / EMBEDDED))
    asked = prompts(content, style)
    shown = [
        asked[0],
        asked[2],
        f"a photo of a snq {content} on a teal background",
        f"a purple house in w@z {style} style",
    ]
    columns = {name: draw(pipe, files, shown, GRID_SEEDS) for name, files in variants.items()}
    for _, result in stages.values():
        write_atomic(
            output / result.path.name, lambda partial, made=result.path: shutil.copyfile(made, partial)
        )
    save_png(output / "grid.png", show(columns, shown, content, style), {"content": content, "style": style})
    scores = {
        name: score(draw(pipe, files, asked, SEEDS), content, style) for name, files in variants.items()
    }

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
            "guidance": GUIDANCE,
            **DIALS,
            **scores,
        },
        "threads": torch.get_num_threads(),
    }
    write_atomic(output / "report.json", lambda path: path.write_text(json.dumps(report, indent=1)))
    print(f"\n{'':32}content  style   both   ({len(asked) * len(SEEDS)} pictures each)")
    for name, shares in scores.items():
        print(f"{name:32}{shares['content']:7.0%}{shares['style']:7.0%}{shares['both']:7.0%}")
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
