"""Sheets of what `b4m library` drew, as the documentation shows them: one pair at every dial, every pair at one, and
every pair beside what the world itself draws of it.

b4m library examples/applications/drawn/textures.yaml --output-dir outputs/applications
python examples/sheets.py dials outputs/applications/results/textures docs/applications/textures.webp

b4m library examples/configs/library/world.yaml --output-dir outputs/library
python examples/sheets.py pairs outputs/library/results/world docs/pairs.webp
python examples/sheets.py truth outputs/library/results/world docs/truth.webp
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from seen import as_drawn

from b4m.evaluation.manifest import Shot, read_manifest
from b4m.sampling.grid import grid

CELL = 160  # pixels
EQUAL, SEED = "both", 0  # where both dials are at full strength


def dial_of(shot: Shot) -> str:
    return shot.row.rpartition(", ")[2]


def dials(shots: Sequence[Shot]) -> Image.Image:
    """Content, style, then each prompt and seed at the dials' positions."""
    names = list(dict.fromkeys(map(dial_of, shots)))
    rows = list(dict.fromkeys((shot.prompt, shot.seed) for shot in shots))
    files = {(dial_of(shot), shot.prompt, shot.seed): shot.file for shot in shots}
    cells: list[Path | None] = []
    for number, row in enumerate(rows):
        shown = (
            [reference(shots[0].content_dir), reference(shots[0].style_dir)] if number == 0 else [None] * 2
        )
        cells += [*shown, *(files[dial, *row] for dial in names)]
    return grid([cell(path) for path in cells], 2 + len(names), (), ["content", "style", *names])


def pairs(shots: Sequence[Shot]) -> Image.Image:
    """Contents down, styles across: each pair's first prompt and seed, at equal dials; none is chosen by looking."""
    shown = first_of_each(shots)
    contents = {content: shot.content_dir for (content, _), shot in shown.items()}
    styles = {style: shot.style_dir for (_, style), shot in shown.items()}
    cells = [None, *map(reference, styles.values())]
    for content, folder in contents.items():
        cells += [reference(folder), *(shown[content, style].file for style in styles)]
    return grid([cell(path) for path in cells], 1 + len(styles), (), ["", *styles])


def truth(shots: Sequence[Shot]) -> Image.Image:
    """The same pairs, each with what the world draws of it at its right, on plain ground."""
    shown = first_of_each(shots)
    contents, styles = (list(dict.fromkeys(of)) for of in zip(*shown, strict=True))
    cells = []
    for content in contents:
        for style in styles:
            cells += [
                cell(shown[content, style].file),
                as_drawn(content, style, "tuning").resize((CELL, CELL)),
            ]
    return grid(
        cells, 2 * len(styles), (), [name for style in styles for name in (style, "as the world draws it")]
    )


def first_of_each(shots: Sequence[Shot]) -> dict[tuple[str, str], Shot]:
    """Of each pair the first prompt and seed at equal dials; none is chosen by looking."""
    shown: dict[tuple[str, str], Shot] = {}
    for shot in shots:
        if (dial_of(shot), shot.seed) == (EQUAL, SEED):
            shown.setdefault(shot.pair, shot)
    return shown


def reference(folder: Path) -> Path:
    return sorted(folder.glob("*.png"))[0]


def cell(path: Path | None) -> Image.Image:
    if path is None:
        return Image.new("RGB", (CELL, CELL), "white")
    with Image.open(path) as image:
        return image.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    kind, results, output = sys.argv[1:]
    sheet = {"dials": dials, "pairs": pairs, "truth": truth}[kind](read_manifest(Path(results) / "scores"))
    sheet.save(output, "WEBP", quality=92)
