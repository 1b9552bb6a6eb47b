"""How often the accessory that a study's prompts ask for is on its images, by row, as both judges see it.

python examples/world/asked.py outputs/results/together     # a study's folder, with its pictures.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from b4m.evaluation.metrics import crossed_interval
from world.dataset import as_tensor
from world.extras import ACCESSORIES
from world.judge import JUDGES, load_judge

Asked = tuple[str, tuple[str, str], str]  # of an image: its row, its content and style, the accessory


def accessory(prompt: str) -> str | None:
    """What the prompt asks to be worn."""
    return next((word for word in ACCESSORIES if f"wearing a {word}" in prompt), None)


def shares(asked: Sequence[Asked], said: Mapping[str, Sequence[str]]) -> dict[str, dict[str, dict]]:
    """By judge and row, the share of images on which the judge sees what was asked for, and by how much that is more
    than in the first row, image by image; intervals over contents and styles."""
    found: dict[str, dict[str, dict]] = {}
    for judge, names in said.items():
        hits: dict[str, dict[tuple[str, str], list[bool]]] = {}  # by row and pair
        for (row, pair, word), name in zip(asked, names, strict=True):
            hits.setdefault(row, {}).setdefault(pair, []).append(name == word)
        means = {row: {pair: fmean(some) for pair, some in pairs.items()} for row, pairs in hits.items()}
        first = next(iter(means.values()))
        found[judge] = {}
        for row, of in means.items():
            found[judge][row] = {
                "share": crossed_interval(of)._asdict(),
                "more": crossed_interval({pair: of[pair] - first[pair] for pair in first})._asdict(),
            }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="the study's folder under results/")
    options = parser.parse_args()
    scores = options.results / "pictures.csv"
    if not scores.exists():
        parser.exit(2, f"{scores}: is not there; run the study first\n")
    with scores.open(newline="") as file:
        shots = [shot for shot in csv.DictReader(file) if accessory(shot["prompt_text"])]
    if not shots:
        parser.exit(2, f"{scores}: no prompt asks for one of {', '.join(ACCESSORIES)}\n")
    pixels = np.stack([np.asarray(Image.open(shot["file"]).convert("RGB")) for shot in shots])
    said = {
        file.stem: load_judge(file).name(as_tensor(pixels))["accessory"]
        for file in sorted(JUDGES.glob("*.safetensors"))
    }
    asked = [
        (shot["row"], (shot["content_name"], shot["style_name"]), accessory(shot["prompt_text"]) or "")
        for shot in shots
    ]
    print(json.dumps(shares(asked, said), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
