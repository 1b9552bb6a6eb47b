"""Every row of scores in the docs is a row of the results that the page links to above it."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("results.md", "tuning.md")
SCORES = {
    "content": "content",
    "style": "style",
    "average": "average",
    "content right": "content_right",
    "style right": "style_right",
    "both right": "both_right",
    "weaker": "weaker_right",
    "ground": "background_right",
    "ground right": "background_right",
    "the asked ground": "background_right",
}
LINK = re.compile(r"\]\(\.\./(examples/results/[^)]+)/results\.md\)")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def tables(page: str) -> list:
    """(study, columns, rows) of each table below a link to a study's results."""
    found, folder, table = [], None, []
    for line in [*(ROOT / "docs" / page).read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip().strip("|").split("|")])
            continue
        if table and folder:
            columns, _, *rows = table
            if SCORES.keys() & set(columns):
                found.append(
                    pytest.param(folder, columns, rows, id=f"{page}-{Path(folder).name}-{len(found)}")
                )
        table = []
        if line.startswith("#"):
            folder = None
        elif link := LINK.search(line):
            folder = link[1]
    return found


def score_of(column: str, row: dict) -> dict | None:
    """What a column shows of a row of the results, None for what is not a score of these."""
    name, _, against = column.partition(" against ")
    scores = row.get("against_baseline", {}) if against else row["scores"]
    return scores.get(SCORES.get(name, ""))


def agrees(cell: str, score: dict) -> bool:
    """A cell is a mean or mean [low, high], with three digits or in whole per cent; in brackets behind: of before."""
    given = [float(number) for number in NUMBER.findall(cell.partition(" (")[0])]
    values = [score[name] for name in ("mean", "low", "high")]
    written = [float(f"{value:.3f}" if "." in cell else f"{100 * value:.0f}") for value in values]
    return given in (written, written[:1])


@pytest.mark.parametrize(("folder", "columns", "rows"), [table for page in PAGES for table in tables(page)])
def test_numbers_on_the_page_are_those_of_the_study(folder, columns, rows):
    measured = json.loads((ROOT / folder / "results.json").read_text(encoding="utf-8"))["summary"]["rows"]
    for name, *cells in rows:
        shown = [
            (c, cell)
            for c, cell in zip(columns[1:], cells, strict=True)
            if NUMBER.search(cell) and columns.count(c) == 1  # two of one name are of two rows
        ]
        wrong = {
            row: [c for c, cell in shown if (score := score_of(c, known)) and not agrees(cell, score)]
            for row, known in measured.items()
            if row == name or name not in measured  # a row that the page calls by another name may be any
        }
        nearest = min(wrong, key=lambda row: len(wrong[row]))
        assert not wrong[nearest], f"{folder}, row {name}: nearest is {nearest}, and {wrong[nearest]} differ"
