"""What an eye says of a study's images beside what the encoders say: blind sheets to look at, and their comparison.

    python examples/seen.py sheets outputs/results/table1-variants seen --rows "B4M, against the base" K-LoRA
    python examples/seen.py agree seen      # once seen/seen.csv says what was seen

A sheet a style, a line a content: its reference, the pair as the world draws it, then in an order drawn by chance every
image of the first row and one of each other. key.csv says which image lies where, and is not for the one who looks;
seen.csv, written by hand, has a line for each place: "place,content,style" and 1 or 0 for each.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from PIL import Image
from world.members import SETS
from world.scenes import render, sample_scene

from b4m.core.errors import UserError
from b4m.evaluation.metrics import crossed_interval

SIDE = 150  # pixels of an image on a sheet
REFERENCES = Path(__file__).resolve().parent / "references" / "confirmation"
KEY = ("place", "row", "content", "style", "prompt", "seed", "content_right", "style_right")
Line = Mapping[str, str]


def choose(pictures: Sequence[Line], rows: Sequence[str], seed: int) -> list[list[Line]]:
    """For every style, and in it for every content: all images of the first row and one of each other, mixed."""
    rng = random.Random(seed)
    pairs = sorted({(shot["style_name"], shot["content_name"]) for shot in pictures})
    chosen = []
    for style, content in pairs:
        of_row = {
            row: [
                s for s in pictures if (s["row"], s["style_name"], s["content_name"]) == (row, style, content)
            ]
            for row in rows
        }
        if missing := [row for row, shots in of_row.items() if not shots]:
            raise UserError(f"row {missing[0]!r}: has no image of {content} in {style}")
        some = [*of_row[rows[0]], *(rng.choice(of_row[row]) for row in rows[1:])]
        rng.shuffle(some)
        chosen.append(some)
    return chosen


def sheet(lines: Sequence[Sequence[Line]]) -> Image.Image:
    """Those of one style, a line a content."""
    made = Image.new("RGB", (SIDE * (2 + max(map(len, lines))), SIDE * len(lines)), "white")
    for y, shots in enumerate(lines):
        content, style = shots[0]["content_name"], shots[0]["style_name"]
        reference = min((REFERENCES / "content" / content).glob("*.png"))
        images = [Image.open(reference), as_drawn(content, style), *(Image.open(s["file"]) for s in shots)]
        for x, image in enumerate(images):
            cell = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            made.paste(cell, (x * SIDE, y * SIDE))
    return made


def as_drawn(content: str, style: str, of: str = "confirmation") -> Image.Image:
    """The pair of that set as the world draws it, on plain ground."""
    contents, styles = SETS[of]
    asked = {"content": contents[content], "style": styles[style].style, "grounds": ("plain",)}
    return Image.fromarray(
        render(sample_scene(np.random.default_rng([7]), **asked, accessories=0, seconds=0))
    )


def sheets(results: Path, output: Path, rows: Sequence[str], seed: int) -> None:
    """A sheet a style, and key.csv. Raises UserError."""
    if not (scores := results / "pictures.csv").exists():
        raise UserError(f"{scores}: is not there; run the study first")
    with scores.open(newline="") as file:
        pictures = [line for line in csv.DictReader(file) if line["row"] in rows]
    chosen = choose(pictures, rows, seed)
    output.mkdir(parents=True, exist_ok=True)
    key = []
    for style in dict.fromkeys(shots[0]["style_name"] for shots in chosen):
        lines = [shots for shots in chosen if shots[0]["style_name"] == style]
        sheet(lines).save(output / f"{style}.webp", quality=80, method=6)
        key += [
            [
                f"{style}-{y}-{x}",
                *(shot[name] for name in ("row", "content_name", "style_name", "prompt_text")),
            ]
            + [shot[name] for name in ("seed", "content_right", "style_right")]
            for y, shots in enumerate(lines)
            for x, shot in enumerate(shots)
        ]
    with (output / "key.csv").open("w", newline="") as file:
        csv.writer(file).writerows([KEY, *key])


def agree(folder: Path) -> dict[str, dict]:
    """By row, and of all: shares that the eye and the encoders call right, both with its interval over contents and
    styles, and how often the two agree. Raises UserError for places that only one of the two files has."""
    key, seen = (_read(folder / name) for name in ("key.csv", "seen.csv"))
    if odd := key.keys() ^ seen.keys():
        raise UserError(f"{folder}: {min(odd)}: stands in only one of key.csv and seen.csv")
    rows = dict.fromkeys(line["row"] for line in key.values())
    of_rows = {row: [place for place, line in key.items() if line["row"] == row] for row in rows}
    return {row: _agreement(key, seen, places) for row, places in {**of_rows, "all": [*key]}.items()}


def _agreement(key: Mapping[str, Line], seen: Mapping[str, Line], places: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {"images": len(places)}
    eye = {place: {kind: int(seen[place][kind]) for kind in ("content", "style")} for place in places}
    encoders = {
        place: {kind: int(key[place][f"{kind}_right"]) for kind in ("content", "style")} for place in places
    }
    for name, said in (("eye", eye), ("encoders", encoders)):
        found[name] = {kind: fmean(said[place][kind] for place in places) for kind in ("content", "style")}
        found[name]["both"] = _over_pairs(
            key, {place: said[place]["content"] * said[place]["style"] for place in places}
        )
    found["agree"] = {
        kind: fmean(eye[place][kind] == encoders[place][kind] for place in places)
        for kind in ("content", "style")
    }
    return found


def _over_pairs(key: Mapping[str, Line], right: Mapping[str, int]) -> dict[str, float]:
    pairs: dict[tuple[str, str], list[int]] = {}
    for place, value in right.items():
        pairs.setdefault((key[place]["content"], key[place]["style"]), []).append(value)
    return crossed_interval({pair: fmean(values) for pair, values in pairs.items()})._asdict()


def _read(path: Path) -> dict[str, Line]:
    if not path.exists():
        raise UserError(f"{path}: is not there")
    with path.open(newline="") as file:
        return {line["place"]: line for line in csv.DictReader(file)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    jobs = parser.add_subparsers(dest="job", required=True)
    making = jobs.add_parser("sheets", help="blind sheets of a study's images")
    making.add_argument("results", type=Path, help="the study's folder under results/")
    making.add_argument("output", type=Path)
    making.add_argument(
        "--rows", nargs="+", required=True, help="all images of the first, one a pair of the others"
    )
    making.add_argument("--seed", type=int, default=11)
    comparing = jobs.add_parser("agree", help="what was seen beside what the encoders said")
    comparing.add_argument("folder", type=Path)
    options = parser.parse_args()
    try:
        if options.job == "sheets":
            sheets(options.results, options.output, options.rows, options.seed)
        else:
            print(json.dumps(agree(options.folder), indent=1))
    except UserError as error:
        parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
