"""The paper's Fig. 8: bars of preference for each method (I), of ours beside each other method (II, III)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...evaluation.report import figure_class

OURS, OTHERS = (
    "#1f5fa8",
    ("#c7c9cc", "#a4a8ad", "#7f848b", "#dfe0e2", "#5f656d", "#b8c4b0", "#d9c6a5", "#b7a6c4"),
)
PANELS = {
    "alignment": "I  Alignment preference",
    "success": "II  Success rate",
    "consistency": "III  Consistency",
}


def figure(numbers: Mapping[str, Any], ours: str, notice: str) -> Any:
    """A matplotlib Figure, a panel for each study; whiskers are the bootstrap's intervals over voters and pairs."""
    studies = list(dict.fromkeys(found["study"] for found in numbers.values()))
    drawn = figure_class()(figsize=(1.2 + 4.3 * len(studies), 3.9), layout="constrained")
    for panel, study in zip(drawn.subplots(1, len(studies), squeeze=False)[0], studies, strict=True):
        of_study = {asked: found for asked, found in numbers.items() if found["study"] == study}
        (_shares if study == "alignment" else _beside)(panel, of_study, ours)
        panel.set_title(PANELS[study], fontsize=11, loc="left")
        panel.set_ylim(0, 100)
        panel.grid(axis="y", color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    if notice:
        drawn.suptitle(notice, color="#b3261e", fontsize=10)
    return drawn


def _shares(panel: Any, numbers: Mapping[str, Any], ours: str) -> None:
    """A group of bars for each of content, style and both; one bar for each method, ours first."""
    names = {name for found in numbers.values() for name in found["methods"]}
    methods = sorted(names, key=lambda name: (name != ours, name))
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        rows = [found["methods"].get(method) for found in numbers.values()]
        places = [group - 0.4 + (i + 0.5) * width for group in range(len(rows))]
        colour = OURS if method == ours else OTHERS[(i - 1) % len(OTHERS)]
        kept = [(place, row) for place, row in zip(places, rows, strict=True) if row]
        panel.bar(
            [p for p, _ in kept], [100 * row["share"] for _, row in kept], width, color=colour, label=method
        )
        _whiskers(panel, kept)
    panel.set_xticks(range(len(numbers)), list(numbers))
    panel.set_ylabel("votes, %")
    panel.legend(fontsize=8, frameon=False)


def _beside(panel: Any, numbers: Mapping[str, Any], ours: str) -> None:
    """A whole bar for each other method, split into the votes for ours (below) and for it."""
    (found,) = numbers.values()
    rows = list(found["against"].items())
    shares = [100 * row["share"] for _, row in rows]
    panel.bar(range(len(rows)), shares, 0.6, color=OURS)
    panel.bar(
        range(len(rows)),
        [100 - x for x in shares],
        0.6,
        bottom=shares,
        color=OTHERS[0],
    )
    _whiskers(panel, [(float(place), row) for place, (_, row) in enumerate(rows)])
    panel.set_ylabel(f"votes for {ours}, %")
    panel.axhline(50, color="white", linewidth=1, linestyle=":")
    panel.set_xticks(range(len(rows)), [_short(name) for name, _ in rows], fontsize=8)


def _whiskers(panel: Any, rows: Sequence[tuple[float, Mapping[str, Any]]]) -> None:
    for place, row in rows:
        low, high = row["bootstrap"]
        if low is not None:
            panel.vlines(place, 100 * low, 100 * high, color="black", linewidth=1)


def _short(name: str) -> str:
    """A name broken into lines that fit below a bar."""
    lines = [""]
    for word in name.split():
        lines = (
            [*lines[:-1], f"{lines[-1]} {word}".strip()]
            if len(lines[-1]) + len(word) < 13
            else [*lines, word]
        )
    return "\n".join(line for line in lines if line)
