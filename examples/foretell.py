"""Whether `b4m inspect --interference` foretells how content and style come out together, over the pairs of a study.

b4m study together --output-dir outputs/study
python examples/foretell.py together outputs/study "in the weights" examples/results/foretell

Measures moves and interference of every pair of the row as it trained them, and ranks pairs by them beside what they
lost: a pair's content and style alignment alone (rows "content alone", "style alone") less those of the row. Writes
foretell.json, every pair in it, and foretell.png; what is done stays done.
"""

import csv
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from b4m.core.errors import UserError
from b4m.evaluation.interference import SHOWN, interference
from b4m.evaluation.pair import joint_prompt
from b4m.evaluation.report import figure_class
from b4m.evaluation.settings import InspectConfig
from b4m.files.concept import load_concept
from b4m.studies.file import read_study
from b4m.studies.plan import Drawing, Plan

STUDIES = Path(__file__).resolve().parent / "configs" / "studies"
Pair = tuple[str, str]


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation; equal values share the mean of their ranks."""
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum()
    return (last - (count - 1) / 2)[place]


def correlated(x: Mapping[Pair, float], y: Mapping[Pair, float], resamples: int = 4000) -> dict[str, float]:
    """Spearman's rho over pairs, and its interval by drawing contents and styles with replacement (Owen 2007)."""
    contents, styles = (sorted({pair[place] for pair in x}) for place in (0, 1))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(resamples):
        some = [(c, s) for c in rng.choice(contents, len(contents)) for s in rng.choice(styles, len(styles))]
        left, right = [x[pair] for pair in some if pair in x], [y[pair] for pair in some if pair in x]
        if len(set(left)) > 1 and len(set(right)) > 1:
            drawn.append(spearman(left, right))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"rho": spearman([x[p] for p in x], [y[p] for p in x]), "low": float(low), "high": float(high)}


def lost(scores: Sequence[Mapping[str, str]], row: str) -> dict[Pair, float]:
    """By pair, how far content and style alignment of the row lie, on average, below either alone."""
    of = {(s["row"], s["content_name"], s["style_name"]): s for s in scores}
    found = {}
    if missing := {"content alone", "style alone"} - {name for name, _, _ in of}:
        raise UserError(
            f"the study has no row {min(missing)!r}, beside which a pair loses; add it, as `together` does"
        )
    for name, content, style in of:
        if name != row:
            continue
        alone = (
            float(of["content alone", content, style]["content"]),
            float(of["style alone", content, style]["style"]),
        )
        together = of[row, content, style]
        found[content, style] = (sum(alone) - float(together["content"]) - float(together["style"])) / 2
    return found


def measured(drawing: Drawing, folder: Path) -> dict[str, float]:
    """Means over noise levels of the pair's moves and interference; measured once."""
    config = drawing.config
    if not config.content_file or not config.style_file:
        raise UserError(
            f"row {drawing.row!r}: is not drawn from a content and a style file; give one that is composed"
        )
    facts = [load_concept(file).metadata for file in (config.content_file, config.style_file)]
    prompt = joint_prompt(*facts)
    asked = hashlib.sha256(prompt.encode()).hexdigest()[:8]  # called otherwise, a pair moves otherwise
    output = folder / f"{Path(drawing.content).name}-{Path(drawing.style).name}-{asked}"
    if not (report := output / "interference.json").exists():
        interference(
            InspectConfig(
                file=config.content_file,
                style_file=config.style_file,
                base_model=config.base_model,
                interference=True,
                prompts=(prompt,),
                output=str(output),
            )
        )
    return json.loads(report.read_text())["mean"]


def main(study: str, root: str, row: str, output: str) -> None:
    path = Path(study) if Path(study).suffix else STUDIES / f"{study}.yaml"
    plan = Plan(read_study(path), Path(root))
    drawings = [
        one for one in plan.drawings if one.row == row and one.training_seed == plan.study.training_seeds[0]
    ]
    if not drawings:
        raise UserError(f"{path}: has no row {row!r}")
    scores = Path(root) / "results" / path.stem / "pairs.csv"
    if not scores.exists():
        raise UserError(f"{scores}: is not there; run b4m study {study} --output-dir {root} first")
    with scores.open() as file:
        losses = lost(list(csv.DictReader(file)), row)
    found = {}
    for one in drawings:
        pair = Path(one.content).name, Path(one.style).name
        found[pair] = measured(one, Path(root) / "foretell" / path.stem / row.replace(" ", "-"))
        print(*pair, {name: round(value, 3) for name, value in found[pair].items()}, flush=True)
    columns = {name: {pair: values[name] for pair, values in found.items()} for name in SHOWN}
    columns["both moves"] = {pair: values["content"] + values["style"] for pair, values in found.items()}
    report = {
        "study": path.stem,
        "row": row,
        "correlation with what is lost": {
            name: correlated(column, losses) for name, column in columns.items()
        },
        "pairs": [{"pair": pair, **values, "lost": losses[pair]} for pair, values in found.items()],
    }
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "foretell.json").write_text(json.dumps(report, indent=1) + "\n")
    _picture(columns["interference"], losses, folder / "foretell.png")
    print(json.dumps(report["correlation with what is lost"], indent=1))


def _picture(x: Mapping[Pair, float], y: Mapping[Pair, float], path: Path) -> None:
    figure = figure_class()(figsize=(5, 3.6), dpi=130, layout="constrained")
    axis = figure.subplots()
    for style in sorted({pair[1] for pair in x}):
        of = [pair for pair in x if pair[1] == style]
        axis.plot([x[pair] for pair in of], [y[pair] for pair in of], "o", markersize=4, label=style)
    axis.set_xlabel("interference, share of the two moves", fontsize=8)
    axis.set_ylabel("alignment lost by putting together", fontsize=8)
    axis.grid(linewidth=0.3)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    try:
        main(*sys.argv[1:])
    except UserError as error:
        print(f"foretell: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
