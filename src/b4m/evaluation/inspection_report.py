"""A report of b4m inspect as people read it: layers in groups, a table, an image.

A layer, like a group, is a dict with norm, share, effective_rank (each by block) and overlap: see inspection.py.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..core.errors import printable

BLOCKS = {"dW": "", "frozen": "A C", "style": "A D", "content": "B C", "interaction": "B D"}
ROWS = 64  # of the image; above that, the layers of one kind in one block of the UNet share a row
COLOURS = dict(dW="#222", frozen="#999", style="#d50", content="#07b", interaction="#0a7")
OVERLAP = dict(mean_squared_cosine="#73a", chance="#888")
MARKERS = dict(style="<", content=">", chance="|")  # equal values do not hide each other
Rows = list[tuple[str, str, list[dict]]]  # of the image: block of the UNet, label, layers
SMALL = dict(fontsize=7, title_fontsize=7.5, frameon=False, columnspacing=1, handletextpad=0.1)  # legends
ORDER = ("self", "cross", "q", "k", "v", "out", "other")


def shares(squares: Mapping[str, float]) -> dict[str, float]:
    """Each block's part of |dW|^2, from squared norms; 0 where dW is 0."""
    return {name: squares[name] / (squares["dW"] or 1.0) for name in squares if name != "dW"}


def _place(layer: str) -> tuple[str, str, str]:
    """Block of the UNet, attention and projection of a layer: ("down 1", "cross", "q"), each or "other"."""
    block = re.match(r"(?:.*/)?(?:(down|up)_blocks\.(\d+)\.|(mid)_block\.)", layer)
    attention = re.search(r"\.attn([12])\.to_(q|k|v|out)\b", layer)
    return (
        " ".join(filter(None, block.groups())) if block else "other",
        ("self", "cross")[int(attention[1]) - 1] if attention else "other",
        attention[2] if attention else "other",
    )


def _part(layer: str) -> str:
    """Of a method's file: what of it the layer belongs to, "content" of "content/mid_block..."; else nothing."""
    return layer.partition("/")[0] if "/" in layer else ""


def _short(layer: str) -> str:
    """A readable name: "down 1 / 0.9 cross q", after its part where it has one: "content down 1 / 0.9 cross q"."""
    block, attention, projection = _place(layer)
    inner = ".".join(re.findall(r"\.(?:attentions|transformer_blocks)\.(\d+)", layer))
    known = f"{_part(layer)} {block} / {inner} {attention} {projection}".strip()
    return layer if "other" in (block, attention) else known


def order(layer: str) -> tuple:
    """The order of the forward pass: blocks by number, self before cross, q k v out."""
    _, attention, projection = _place(layer)
    stem = layer if attention == "other" else layer[: layer.index(".attn")]
    numbers = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", stem)]
    return numbers, ORDER.index(attention), ORDER.index(projection)


def _mean(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row for several layers: norm the root mean square, share of the pooled squares, means of the others."""
    names = layers[0]["norm"]
    squares = {name: fmean(layer["norm"][name] ** 2 for layer in layers) for name in names}
    overlaps = [layer["overlap"] for layer in layers if layer["overlap"]]
    return {
        "layers": len(layers),
        "norm": {name: square**0.5 for name, square in squares.items()},
        "share": shares(squares),
        "effective_rank": {name: fmean(layer["effective_rank"][name] for layer in layers) for name in names},
        "overlap": {key: fmean(one[key] for one in overlaps) for key in OVERLAP} if overlaps else None,
    }


def groups(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All layers, then those of each part (of a method's file), each block, each attention, each projection."""
    places = {name: _place(name) for name in layers}
    members = {"all": list(layers.values())}
    for part in dict.fromkeys(filter(None, map(_part, layers))):
        members[f"part {part}"] = [layers[name] for name in layers if _part(name) == part]
    for axis, title in enumerate(("block", "attention", "projection")):
        labels = dict.fromkeys(place[axis] for place in places.values())
        for label in sorted(labels, key=ORDER.index) if axis else labels:
            members[f"{title} {label}"] = [layers[name] for name in layers if places[name][axis] == label]
    return {label: _mean(found) for label, found in members.items()}


def groups_of_parts(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The groups of a method's file; what is of no block, such as a table of words' vectors, stands by itself."""
    lone = {name: layer for name, layer in layers.items() if set(_place(name)) == {"other"}}
    known = {label: group for label, group in groups(layers).items() if not label.endswith(" other")}
    alone = {f"{name} ({layer['m']}, {layer['n']})": _mean([layer]) for name, layer in lone.items()}
    return known | alone


def _percent(share: float) -> str:
    if 0 < share < 1e-5:
        return "<0.001%"
    return f"{share:.1%}" if share >= 0.001 else f"{100 * share:.1g}%"


def table(report: Mapping[str, Any]) -> str:
    """The groups of a report of `inspect` as text, a line each: norm, share and effective rank of the blocks."""
    names = list(report["groups"]["all"]["norm"])
    heads = [head for name in names for head in ("|dW|" if name == "dW" else name, "rank")]
    rows = [["", "layers", *heads, "overlap", "chance"]]
    for label, group in report["groups"].items():
        row = [label, str(group["layers"])]
        for name in names:
            row.append(f"{group['norm']['dW']:.3g}" if name == "dW" else _percent(group["share"][name]))
            row.append(f"{group['effective_rank'][name]:.1f}")
        overlap = group["overlap"]
        row += [f"{overlap[key]:.2f}" for key in OVERLAP] if overlap else ["-", "-"]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines = [line[: widths[0]].strip().ljust(widths[0]) + line[widths[0] :] for line in lines]
    return "\n".join([*lines, *(f"{key}: {_brief(value)}" for key, value in report.get("facts", {}).items())])


def _brief(value: object) -> str:
    """A fact on one line of a terminal, whoever wrote it."""
    text = printable(value)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def figure_of(report: Mapping[str, Any]) -> Any:
    """The report as a matplotlib Figure: norms of the blocks as a heat map, effective rank and overlap beside it.

    A row is a layer; of more than ROWS layers, those of one projection in one block of the UNet share a row, whose
    thin lines span their values. The figure stands alone: pyplot and its state are not touched.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second, for this command alone
    from matplotlib.figure import Figure

    rows = _rows(report["layers"])
    whole = report["groups"]["all"]
    ranks = {name: COLOURS[name] for name, norm in whole["norm"].items() if norm}
    panels = {"effective_rank": ranks, "overlap": OVERLAP if whole["overlap"] else {}}
    panels = {key: colours for key, colours in panels.items() if colours}
    widths = [max(1.6, 0.75 * len(whole["norm"])), *(2.4 for _ in panels)]
    left = 0.06 * max(len(label) for _, label, _ in rows)
    figure = Figure(figsize=(left + sum(widths) + 0.5, 1.8 + 0.19 * len(rows)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    _draw_norms(figure, axes[0], rows)
    for axis, (key, colours) in zip(axes[1:], panels.items(), strict=True):
        _draw_values(axis, rows, key, colours)
    files = " + ".join(printable(Path(file).name) for file in report["files"])
    title = f"{report['type']}, {len(report['layers'])} layers: {files}"
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _rows(layers: Mapping[str, dict[str, Any]]) -> Rows:
    if len(layers) <= ROWS:
        return [(_place(name)[0], _short(name), [layer]) for name, layer in layers.items()]
    groups: dict[tuple, list] = {}
    for name, layer in layers.items():
        groups.setdefault((_place(name)[0], _part(name), *_place(name)[1:]), []).append(layer)
    return [(block, _label(part, block, *rest), members) for (block, part, *rest), members in groups.items()]


def _label(*words: str) -> str:
    return " ".join(dict.fromkeys(filter(None, words)))


def _draw_norms(figure: Any, axis: Any, rows: Rows) -> None:
    """Colour: the norm. In the cell: |dW|, and of its blocks their share of |dW|^2. Zero has no colour."""
    from matplotlib.colors import LogNorm

    means = [_mean(members) for _, _, members in rows]
    names = list(means[0]["norm"])
    norms = np.array([list(mean["norm"].values()) for mean in means])
    top = norms.max() or 1.0
    least = norms[norms > 0].min(initial=top)
    low = np.clip(least, top / 1000, top / 10)
    scale = LogNorm(low, top, clip=True)
    mesh = axis.imshow(np.ma.masked_equal(norms, 0), norm=scale, cmap="viridis", aspect="auto")
    for (y, x), value in np.ndenumerate(norms):
        text = f"{value:.2g}" if names[x] == "dW" else _percent(means[y]["share"][names[x]])
        colour = "black" if value == 0 or scale(value) > 0.6 else "white"
        axis.text(x, y, text if value else "0", ha="center", va="center", fontsize=6.5, color=colour)
    axis.set_xticks(range(len(names)), [f"{name}\n{BLOCKS[name]}" for name in names], fontsize=7.5)
    axis.set_yticks(range(len(rows)), [label for _, label, _ in rows], fontsize=7, parse_math=False)
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    for y in range(1, len(rows)):
        if rows[y][0] != rows[y - 1][0]:
            axis.axhline(y - 0.5, color="white", linewidth=3)
    ticks = np.geomspace(low, top, 3)  # a decade may lie between two of its own marks
    bar = figure.colorbar(mesh, ax=axis, location="bottom", aspect=40, pad=0.01, ticks=ticks, format="%.2g")
    bar.minorticks_off()
    bar.set_label("norm; written: |dW|, blocks' shares of |dW|²", fontsize=7.5)
    bar.ax.tick_params(labelsize=7)


def _draw_values(axis: Any, rows: Rows, key: str, colours: Mapping[str, str]) -> None:
    """A mark per row at the mean of its layers, on a thin line from the least to the largest."""
    for name, colour in colours.items():
        marks = []
        for y, (_, _, members) in enumerate(rows):
            if values := [layer[key][name] for layer in members if layer[key]]:
                marks.append((fmean(values), y))
                axis.plot([min(values), max(values)], [y, y], color=colour, linewidth=1, alpha=0.5)
        x, y = zip(*marks, strict=True)
        label, marker = name.replace("_", " "), MARKERS.get(name, "o")
        axis.scatter(x, y, s=40 if marker == "|" else 16, color=colour, marker=marker, label=label)
    axis.set_xlim(left=0, right=1.02 if key == "overlap" else None)
    axis.tick_params(axis="x", labelsize=7)
    axis.tick_params(axis="y", length=0, labelleft=False)
    axis.set_axisbelow(True)
    axis.grid(axis="y", linewidth=0.3)
    title = key.replace("_", " ")
    columns = (len(colours) + 1) // 2
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, title=title, **SMALL)
