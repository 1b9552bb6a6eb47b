"""How far a content and a style move the predictions of their base model, and how far they disturb each other."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from ..core.storage import write_atomic, write_text
from ..maths.moves import Moves, moves
from ..sampling.states import predict
from .pair import on_base
from .report import figure_class
from .settings import InspectConfig

SHOWN = {  # what is measured: its title
    "content": "move of the content, share of the power",
    "style": "move of the style, share of the power",
    "interference": "interference, share of the two moves",
}


def interference(config: InspectConfig) -> dict[str, Any]:
    """Measure, write interference.json and interference.png into config.output, and return what the JSON holds.

    levels: timestep, content, style and interference (`maths.moves.Moves`, means over the states) of each noise level;
    mean: over the levels. Raises UserError, and then writes nothing, for files that do not compose.
    """
    make_figure = figure_class()
    assert config.style_file is not None  # or InspectConfig would have refused
    backbone, found = on_base(
        config.file, config.style_file, config.base_model, config.content_dir, config.prompts
    )
    measured: dict[float, list[Moves]] = {}
    for states in found:
        four = (predict(backbone, states, *dials) for dials in ((0, 0), (1, 0), (0, 1), (1, 1)))
        measured.setdefault(states.timestep, []).append(moves(*four))
    levels = [{"timestep": timestep, **_means(measured[timestep])} for timestep in sorted(measured)]
    report = {
        "files": [config.file, config.style_file],
        "states": config.content_dir or "images of the base model",
        "levels": levels,
        "mean": {name: fmean(level[name] for level in levels) for name in SHOWN},
    }
    figure = _figure(make_figure, report)
    folder = Path(config.output)
    write_text(folder / "interference.json", json.dumps(report, indent=1, allow_nan=False))
    write_atomic(folder / "interference.png", lambda partial: figure.savefig(partial, format="png"))
    return report


def _means(measured: list[Moves]) -> dict[str, float]:
    """Over all samples of one noise level."""
    return {
        name: fmean(value for each in measured for value in getattr(each, name).tolist()) for name in SHOWN
    }


def interference_table(report: Mapping[str, Any]) -> str:
    """A line for each noise level, and their mean."""
    lines = ["timestep  content    style  interference"]
    rows = [(f"{level['timestep']:.0f}", level) for level in report["levels"]]
    for label, level in [*rows, ("mean", report["mean"])]:
        lines.append(
            f"{label:>8}  {level['content']:7.3f}  {level['style']:7.3f}  {level['interference']:12.3f}"
        )
    return "\n".join(lines)


def _figure(make_figure: type, report: Mapping[str, Any]) -> Any:
    """A curve over the noise levels for each thing measured."""
    figure = make_figure(figsize=(5, 3.2), dpi=150, layout="constrained")
    axis = figure.subplots()
    timesteps = [level["timestep"] for level in report["levels"]]
    for name, title in SHOWN.items():
        values = [level[name] for level in report["levels"]]
        axis.plot(timesteps, values, "o-", markersize=3, label=title)
    axis.set_xlabel("timestep (more noise to the right)", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.grid(linewidth=0.3)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False)
    return figure
