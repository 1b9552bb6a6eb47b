"""How far the judges see what a person sees on generated pictures, and what each other sees.

    python examples/world/check_base.py --sheet sheet.png
    python examples/world/by_eye.py sheet.png --mix mixed.webp      # so that no place tells what was asked for
    python examples/world/by_eye.py mixed.webp --seen seen.csv      # after looking at every picture

seen.csv names in its first line aspects of judge.NAMES; then comes a line for each picture of the sheet, row by row
from the left. An empty cell is what cannot be told by looking, and is asked of nobody.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from world.check_base import sheet as sheet_of
from world.dataset import SIZE, as_tensor
from world.judge import JUDGES, NAMES, agreement, load_judge


def pictures_of(sheet: Image.Image) -> np.ndarray:
    """(N, 128, 128, 3) uint8, row by row."""
    pixels = np.asarray(sheet.convert("RGB"))
    rows, columns = pixels.shape[0] // SIZE, pixels.shape[1] // SIZE
    grid = pixels[: rows * SIZE, : columns * SIZE].reshape(rows, SIZE, columns, SIZE, 3)
    return grid.swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)


def mixed(sheet: Image.Image, seed: int = 0) -> Image.Image:
    """The sheet with its pictures in an order drawn from `seed`."""
    pictures = pictures_of(sheet)
    return sheet_of(pictures[np.random.default_rng(seed).permutation(len(pictures))], sheet.width // SIZE)


def read_seen(path: Path, count: int) -> list[dict[str, str]]:
    """What a person says of each of `count` pictures, by aspect. Raises ValueError, in one line."""
    with path.open(newline="") as file:
        said = [{aspect: name for aspect, name in line.items() if name} for line in csv.DictReader(file)]
    if len(said) != count:
        raise ValueError(f"{path}: {len(said)} lines for {count} pictures; write one for each")
    for number, line in enumerate(said, start=2):
        for aspect, name in line.items():
            if aspect not in NAMES:
                raise ValueError(f"{path}: {aspect!r} is no aspect; known: {', '.join(NAMES)}")
            if name not in NAMES[aspect]:
                known = ", ".join(NAMES[aspect])
                raise ValueError(f"{path}, line {number}: {name!r} is no {aspect}; known: {known}")
    return said


def compare(
    found: Mapping[str, Mapping[str, Sequence[str]]], seen: Sequence[Mapping[str, str]]
) -> dict[str, dict[str, float]]:
    """Shares of pictures on which each judge agrees with the person, and with each other judge, by aspect."""
    result = {f"{judge} and eye": agreement(said, seen) for judge, said in found.items()}
    judges = list(found)
    for i, one in enumerate(judges):
        for other in judges[i + 1 :]:
            lines = [
                dict(zip(found[other], names, strict=True))
                for names in zip(*found[other].values(), strict=True)
            ]
            result[f"{one} and {other}"] = agreement(found[one], lines)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sheet", type=Path)
    parser.add_argument("--seen", type=Path, help="what a person sees, to compare with")
    parser.add_argument("--mix", type=Path, help="save the sheet with its pictures in another order")
    parser.add_argument("--judges", type=Path, default=JUDGES)
    options = parser.parse_args()
    if not (options.mix or options.seen):
        parser.error("give --mix, --seen or both")
    whole = Image.open(options.sheet)
    if options.mix:
        mixed(whole).save(options.mix, quality=90)
    if not options.seen:
        return
    pixels = pictures_of(whole)
    try:
        seen = read_seen(options.seen, len(pixels))
    except (OSError, ValueError) as error:
        parser.exit(2, f"{error}\n")
    files = sorted(options.judges.glob("*.safetensors"))
    found = {file.stem: load_judge(file).name(as_tensor(pixels)) for file in files}
    print(json.dumps({"pictures": len(pixels), **compare(found, seen)}, indent=1))


if __name__ == "__main__":
    main()
