"""The sheet of one analogue in docs/applications.md: content, style, then each prompt and seed at the dials' positions.

b4m library examples/applications/drawn/textures.yaml --output-dir outputs/applications
python examples/applications/drawn/sheet.py outputs/applications/results/textures docs/applications/textures.webp
"""

import sys
from pathlib import Path

from PIL import Image

from b4m.evaluation.manifest import read_manifest
from b4m.sampling.grid import grid

CELL = 128  # pixels


def main(results: Path, output: Path) -> None:
    shots = read_manifest(results / "scores")
    dials = list(dict.fromkeys(shot.row for shot in shots))
    rows = list(dict.fromkeys((shot.prompt, shot.seed) for shot in shots))
    files = {(shot.row, shot.prompt, shot.seed): shot.file for shot in shots}
    references = [sorted(folder.glob("*.png"))[0] for folder in (shots[0].content_dir, shots[0].style_dir)]
    cells = []
    for number, row in enumerate(rows):
        shown = references if number == 0 else [None, None]
        cells += [_cell(path) for path in (*shown, *(files[dial, *row] for dial in dials))]
    names = [dial.rpartition(", ")[2] for dial in dials]
    sheet = grid(cells, 2 + len(dials), (), ["content", "style", *names])
    sheet.save(output, "WEBP", quality=90)


def _cell(path: Path | None) -> Image.Image:
    if path is None:
        return Image.new("RGB", (CELL, CELL), "white")
    with Image.open(path) as image:
        return image.convert("RGB").resize((CELL, CELL), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
