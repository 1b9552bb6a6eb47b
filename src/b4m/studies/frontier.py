"""The frontier: what a method keeps of the content against what it keeps of the style, as its dials turn."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.report import SCORES, figure_class

PANELS = (("content_right", "style_right"), ("content", "style"))  # across, up
BOTH = (0.1, 0.2, 0.4, 0.6)  # shares of images that would have both, were the two independent


def frontier(summary: Mapping[str, Any], curves: Mapping[str, Sequence[str]]) -> Any:
    """A matplotlib Figure of `report.summarise`'s rows: a line for each of `curves` through its rows, in their order;
    rows of none of them as single points. To the right more of the content, upwards more of the style.

    Raises UserError without matplotlib.
    """
    on_curves = {row for rows in curves.values() for row in rows}
    alone = {row: [row] for row in summary["rows"] if row not in on_curves}
    figure = figure_class()(figsize=(11, 5.2), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for panel, (across, up) in zip(panels, PANELS, strict=True):
        for number, (name, rows) in enumerate({**curves, **alone}.items()):
            points = _points(summary, rows, across, up)
            look = "o-" if name in curves else "X"
            panel.plot(
                *zip(*points, strict=True) if points else ((), ()),
                look,
                color=f"C{number % 10}",
                markersize=5 if name in curves else 8,
                label=name,
                fillstyle="full" if number < 10 else "none",  # colours come round again
            )
        panel.set_xlabel(SCORES[across])
        panel.set_ylabel(SCORES[up])
        panel.grid(color="0.9")
        panel.set_axisbelow(True)
    _independent(panels[0])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", fontsize=9)
    return figure


def _points(
    summary: Mapping[str, Any], rows: Sequence[str], across: str, up: str
) -> list[tuple[float, float]]:
    """Means of both scores, of those rows that have them."""
    scores = [summary["rows"][row]["scores"] for row in rows]
    return [(of[across]["mean"], of[up]["mean"]) for of in scores if across in of and up in of]


def _independent(panel: Any) -> None:
    """Dotted lines where as many images would have both as its number says, if one told nothing of the other."""
    panel.set_xlim(-0.02, 1.02)
    panel.set_ylim(-0.02, 1.02)
    for both in BOTH:
        steps = [both + (1 - both) * n / 50 for n in range(51)]
        panel.plot(steps, [both / step for step in steps], ":", color="0.6", linewidth=1)
        panel.text(1.0, both, f"{both:.0%}", color="0.5", fontsize=8, ha="right", va="bottom")
