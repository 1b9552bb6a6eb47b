"""What an evaluation hands over: means and intervals over pairs, tables, plot, labelled sheet, CSV and JSON."""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image, ImageOps

from ..core.errors import UserError
from ..core.storage import reason, write_atomic, write_text
from ..data.images import open_pictures
from ..sampling.grid import grid
from .manifest import Shot
from .metrics import crossed_interval

ALIGNMENTS = {  # score: its title
    "content": "content alignment",
    "style": "style alignment",
    "csd": "style alignment (CSD)",
    "prompt": "prompt alignment",
    "average": "average alignment",
    "diversity": "diversity between seeds",
}
SHARES = {  # of images: as the classifiers name them, and as a vision-language model answers
    "content_right": "content right",
    "style_right": "style right",
    "both_right": "both right",
    "weaker_right": "weaker of content and style right",
    "background_right": "background right",
    "colour_right": "colour right",
    "leak_content": "leaked content",
    "leak_style": "leaked style",
    "leak_background": "leaked background",
    "leak_colour": "leaked colour",
    "vlm_content": "content right (VLM)",
    "vlm_style": "style right (VLM)",
    "vlm_both": "both right (VLM)",
    "vlm_weaker": "weaker of content and style (VLM)",
    "vlm_prompt": "prompt right (VLM)",
    "vlm_silent": "no verdict (VLM)",
}
SCORES = {**ALIGNMENTS, **SHARES}
IDENTITY = ("file", "row", "content_name", "style_name", "prompt_text", "seed", "training_seed")
Record = Mapping[str, Any]

CELL = 128  # pixels of one image of the sheet
MAX_PAIRS, ROWS_ACROSS = 24, 16  # of the sheet
MAX_LINES = 96  # of its images: a side of a WebP image has at most 16,383 pixels


def summarise(records: Sequence[Record], baseline: str | None = None) -> dict[str, Any]:
    """Per row and score: the mean over the images of each pair and training seed, over its training seeds,
    then `metrics.crossed_interval` over contents and styles; against `baseline` the same of paired differences.

    A picture's counterpart has the same pair, prompt, seed and training seed; where one side has no training seed
    (a base model), it stands beside each of the other's. Ends of an interval are None with a single pair.
    Raises UserError for a baseline that is no row.
    """
    rows: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        rows[record["row"]].append(record)
    check_baseline(rows, baseline)
    summary: dict[str, Any] = {"baseline": baseline, "rows": {}}
    for row, mine in rows.items():
        entry = summary["rows"][row] = {
            "pictures": len(mine),
            "pairs": len({_pair(record) for record in mine}),
            "seeds": len({record["seed"] for record in mine}),
            "training_seeds": len({record.get("training_seed") for record in mine} - {None}),
            "scores": {},
        }
        for score in SCORES:
            if values := _scored(mine, score):
                entry["scores"][score] = _over_pairs(values)
        if baseline is not None and row != baseline:
            entry["against_baseline"] = _differences(mine, rows[baseline])
    return summary


def by_pair(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A record per row and pair with the means that `summarise` sums up: all that its intervals are made of."""
    cells: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        cells[record["row"], *_pair(record)].append(record)
    return [
        {
            **dict(zip(("row", "content_name", "style_name"), cell, strict=True)),
            "pictures": len(mine),
            **{score: _pair_means(values)[cell[1:]] for score in SCORES if (values := _scored(mine, score))},
        }
        for cell, mine in cells.items()
    ]


def check_baseline(rows: Iterable[str], baseline: str | None) -> None:
    """Raises UserError for a baseline that is none of `rows`."""
    if baseline is not None and baseline not in rows:
        raise UserError(f"baseline {baseline!r} is no row of these images; choose one of {', '.join(rows)}")


def _scored(records: Sequence[Record], score: str) -> list[tuple[Record, float]]:
    return [(record, record[score]) for record in records if record.get(score) is not None]


def _pair(record: Record) -> tuple[str, str]:
    return record["content_name"], record["style_name"]


def _pair_means(values: Sequence[tuple[Record, float]]) -> dict[tuple[str, str], float]:
    """Each pair's mean over training seeds of the means over images."""
    cells: dict[tuple[str, str], dict[Any, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record, value in values:
        cells[_pair(record)][record.get("training_seed")].append(value)
    return {pair: fmean(map(fmean, seeds.values())) for pair, seeds in cells.items()}


def _over_pairs(values: Sequence[tuple[Record, float]]) -> dict[str, Any]:
    means = _pair_means(values)
    found = crossed_interval(means)._asdict()
    numbers = {name: None if isnan(value) else value for name, value in found.items()}
    return {**numbers, "pairs": len(means), "pictures": len(values)}


def _differences(mine: Sequence[Record], theirs: Sequence[Record]) -> dict[str, dict[str, Any]]:
    found = {}
    for score in SCORES:
        counterparts: dict[tuple, dict[Any, float]] = defaultdict(dict)
        for record in theirs:
            if record.get(score) is not None:
                counterparts[_drawn(record)][record.get("training_seed")] = record[score]
        values = []
        for record in mine:
            by_seed = counterparts.get(_drawn(record), {})
            seed = record.get("training_seed")
            same = (
                by_seed.values()
                if seed is None
                else [by_seed[key] for key in (seed, None) if key in by_seed][:1]
            )
            if record.get(score) is not None and same:
                values.append((record, record[score] - fmean(same)))
        if values:
            found[score] = _over_pairs(values)
    return found


def _drawn(record: Record) -> tuple:
    return _pair(record), record["prompt_text"], record["seed"]


def tables(summary: Mapping[str, Any]) -> str:
    """The summary as Markdown: alignments, shares of images where classifiers spoke, differences from the baseline."""
    rows, baseline = summary["rows"], summary["baseline"]
    parts = ["Mean over pairs [95 % interval by a bootstrap over contents and styles].\n"]
    for scores in (ALIGNMENTS, SHARES):
        parts.append(_table(rows, scores, "scores"))
    compared = {row: entry for row, entry in rows.items() if "against_baseline" in entry}
    if compared:
        parts.append(f"Difference from {_cell(baseline)}, same pair, prompt, seed and training seed.\n")
        for scores in (ALIGNMENTS, SHARES):
            parts.append(_table(compared, scores, "against_baseline"))
    return "\n".join(part for part in parts if part)


def _table(rows: Mapping[str, Any], scores: Mapping[str, str], key: str) -> str:
    present = [name for name in scores if any(name in entry[key] for entry in rows.values())]
    if not present:
        return ""
    signed = "+" if key == "against_baseline" else ""
    lines = [["", "pictures", "pairs", *(scores[name] for name in present)]]
    for row, entry in rows.items():
        cells = [_number(entry[key].get(name), name in SHARES, signed) for name in present]
        lines.append([_cell(row), str(entry["pictures"]), str(entry["pairs"]), *cells])
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: Mapping[str, Any] | None, share: bool, signed: str) -> str:
    if value is None:
        return "–"
    form = (lambda x: f"{100 * x:{signed}.0f} %") if share else (lambda x: f"{x:{signed}.3f}")
    ends = "" if value["low"] is None else f" [{form(value['low'])}, {form(value['high'])}]"
    return form(value["mean"]) + ends


def write_results(
    folder: Path | str,
    records: Sequence[Record],
    summary: Mapping[str, Any],
    shots: Sequence[Shot],
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write results.json, results.md, pairs.csv, pictures.csv, sheet.webp and plot.png; what results.json holds comes
    back.

    Each file is written atomically. Raises UserError: the disk refuses, no matplotlib (checked last, so that the
    numbers are safe).
    """
    folder = Path(folder)
    results = {"summary": dict(summary), "provenance": dict(provenance or {})}
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / "results.json", text)
    write_text(folder / "results.md", tables(summary))
    write_atomic(folder / "pairs.csv", lambda path: _write_csv(path, by_pair(records)))
    write_atomic(folder / "pictures.csv", lambda path: _write_csv(path, records))
    picture = sheet(shots)
    write_atomic(folder / "sheet.webp", lambda path: picture.save(path, "WEBP", quality=80))
    drawn = plot(summary)
    write_atomic(folder / "plot.png", lambda path: drawn.savefig(path, dpi=120))
    return results


def _write_csv(path: Path, records: Sequence[Record]) -> None:
    known = {key for record in records for key in record}
    columns = [name for name in (*IDENTITY, *SCORES) if name in known]
    columns += sorted(known - set(columns))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


def sheet(shots: Sequence[Shot]) -> Image.Image:
    """A line per pair: a reference of either kind, then one image of each row, with the same prompt and seed.

    More than 16 rows go on in further blocks below, each with its references. At most 24 pairs, fewer where there are
    so many blocks that they would not fit, spread over all of them; white where a row has no such image.
    """
    rows = list(dict.fromkeys(shot.row for shot in shots))
    blocks = ceil(len(rows) / ROWS_ACROSS)
    across = ceil(len(rows) / blocks)
    every = list(dict.fromkeys(shot.pair for shot in shots))
    shown = every[:: ceil(len(every) / max(1, min(MAX_PAIRS, MAX_LINES // blocks)))]
    lines = {pair: [shot for shot in shots if shot.pair == pair] for pair in shown}
    parts = [_block(lines, rows[start : start + across]) for start in range(0, len(rows), across)]
    whole = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height
    return whole


def _block(lines: Mapping[tuple[str, str], Sequence[Shot]], rows: Sequence[str]) -> Image.Image:
    """Some rows of the sheet: a line for each pair, out of its images."""
    cells, labels = [], []
    for pair, of_pair in lines.items():
        first = of_pair[0]
        same = {
            shot.row: shot
            for shot in reversed(of_pair)
            if (shot.prompt, shot.seed) == (first.prompt, first.seed)
        }
        labels.append(f"{pair[0]} in {pair[1]}, seed {first.seed}")
        cells += [_thumbnail(first.content_dir), _thumbnail(first.style_dir)]
        cells += [_thumbnail(same[row].file) if row in same else _blank() for row in rows]
    return grid(cells, 2 + len(rows), labels, ["content reference", "style reference", *rows])


def _blank() -> Image.Image:
    return Image.new("RGB", (CELL, CELL), "white")


def _thumbnail(path: Path) -> Image.Image:
    """The first image of a folder, or the one of a file, whole on a white square; small ones keep their pixels."""
    picture = open_pictures(path)[0]
    small = max(picture.size) < CELL
    way = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return ImageOps.pad(picture, (CELL, CELL), way, "white")


def figure_class() -> type:
    """matplotlib's Figure, which draws without a screen. Raises UserError where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"the plot needs matplotlib ({reason(error)}): pip install matplotlib") from error
    return Figure


def plot(summary: Mapping[str, Any]) -> Any:
    """A matplotlib Figure: a panel per score, in it a dot with its interval per row; the baseline as a dotted line."""
    rows, baseline = summary["rows"], summary["baseline"]
    scores = [name for name in SCORES if any(name in entry["scores"] for entry in rows.values())]
    across = min(4, len(scores))
    down = ceil(len(scores) / across)
    margin = 0.085 * max(map(len, rows)) + 0.3  # inches that the longest name takes
    figure = figure_class()(
        figsize=(margin + 2.7 * across, down * (0.9 + 0.3 * len(rows))), layout="constrained"
    )
    panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
    for panel in panels[len(scores) :]:
        panel.set_visible(False)
    for panel, score in zip(panels, scores, strict=False):
        for height, entry in enumerate(rows.values()):
            value = entry["scores"].get(score)
            if value is not None:
                if value["low"] is not None:
                    panel.hlines(height, value["low"], value["high"], color="C0", linewidth=2)
                panel.plot(value["mean"], height, "o", color="C0", markersize=6)
        if baseline is not None and score in rows[baseline]["scores"]:
            panel.axvline(rows[baseline]["scores"][score]["mean"], color="gray", linestyle=":", linewidth=1)
        if score in SHARES:
            panel.set_xlim(-0.04, 1.04)
        panel.set_title(SCORES[score], fontsize=10)
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure
