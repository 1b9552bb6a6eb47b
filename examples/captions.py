"""What should the captions of a content's images say? The tuning set, captioned in five ways, and the studies compared.

python examples/captions.py write outputs/captions
for way in ground photo one-photo words none; do b4m study captions --subjects outputs/captions/$way.yaml; done
python examples/captions.py compare outputs/studies examples/results/captions

`write` copies the content references, each way with captions of its own, beside a file of subjects for `b4m study`;
`compare` reads what the studies said of every image and writes captions.json: means, and differences to the way that
ships, image by image, with their intervals over contents and styles; captions.md has them as tables.
"""

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from b4m.evaluation.report import SCORES, summarise, tables

EXAMPLES = Path(__file__).resolve().parent
WORLD = EXAMPLES / "configs" / "subjects" / "world.yaml"
Shot = dict[str, Any]

# The caption, made of the shipped one, the words and the image's place.
WAYS: dict[str, Callable[[str, str, int], str | None]] = {
    "ground": lambda caption, words, place: caption,
    "photo": lambda caption, words, place: f"a photo of {caption}",
    "one-photo": lambda caption, words, place: caption if place else f"a photo of {caption}",
    "words": lambda caption, words, place: words,
    "none": lambda caption, words, place: None,
}


def write(output: Path) -> None:
    """Each way's folders, and its subjects: those of the tuning set but for the contents."""
    subjects = yaml.safe_load(WORLD.read_text())
    for way, said in WAYS.items():
        for source in sorted((EXAMPLES / "references" / "content").iterdir()):
            folder = output / way / source.name
            folder.mkdir(parents=True, exist_ok=True)
            for place, image in enumerate(sorted(source.glob("*.png"))):
                shutil.copyfile(image, folder / image.name)
                caption = said(image.with_suffix(".txt").read_text().strip(), f"a snq {source.name}", place)
                if caption:
                    (folder / image.name).with_suffix(".txt").write_text(caption + "\n")
        own = {**subjects, "contents": [f"{output}/{way}/*"]}
        (output / f"{way}.yaml").write_text(yaml.safe_dump(own, sort_keys=False))


def shots(results: Path, way: str) -> list[Shot]:
    """What a way's study said of every image."""
    with (results / f"captions-{way}" / "pictures.csv").open(newline="") as file:
        return [
            {
                name: float(value) if value and name in SCORES else value or None
                for name, value in shot.items()
            }
            for shot in csv.DictReader(file)
        ]


def compared(by_way: Mapping[str, Sequence[Shot]]) -> dict[str, dict[str, Any]]:
    """By row of the study: its summary with a row for every way, paired with the first."""
    first = next(iter(by_way))
    return {
        row: summarise(
            [{**shot, "row": way} for way, some in by_way.items() for shot in some if shot["row"] == row],
            first,
        )
        for row in dict.fromkeys(shot["row"] for shot in by_way[first])
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("folder", type=Path, help="of the captions to write, or of the studies to compare")
    parser.add_argument("output", type=Path, nargs="?", help="folder for captions.json")
    options = parser.parse_args()
    if options.what == "write":
        write(options.folder)
        return 0
    if options.output is None:
        parser.error("compare needs a folder for captions.json")
    results = options.folder / "results"
    if missing := [way for way in WAYS if not (results / f"captions-{way}" / "pictures.csv").exists()]:
        parser.exit(2, f"{results}: captions-{missing[0]} is not there; run its study first\n")
    report = compared({way: shots(results, way) for way in WAYS})
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "captions.json").write_text(json.dumps(report, indent=1) + "\n")
    pages = [f"## {row}\n\n{tables(summary)}" for row, summary in report.items()]
    (options.output / "captions.md").write_text("\n".join(["# What captions say\n", *pages]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
