"""`b4m vote report`: the votes as Fig. 8's bars, tables, JSON and CSV."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.storage import write_atomic, write_text
from .figure import figure
from .questions import ASKED, IMAGES, VOTES, Question, Study, read_study
from .settings import ReportConfig
from .store import Cast, Store
from .tally import Counted, count, tally

FOLDER, ANSWERS = "report", "answers"
Witness = Callable[[Sequence[tuple[Question, Cast]]], dict[str, Any]]
TITLES = {  # of what was asked
    "content": "Study I: closest to the content",
    "style": "Study I: closest to the style",
    "both": "Study I: closest to both",
    "success": "Study II: success rate",
    "consistency": "Study III: consistency",
}
SIMULATED = "SIMULATED VOTERS. No person cast these votes; they show what a report looks like."
HOW = (
    "Share: votes for a method over votes that could have gone to it. Wilson: 95 % interval as if votes were "
    "independent. Bootstrap: 95 % interval over voters and pairs, each drawn with replacement; the one to "
    "trust. Strength: Bradley-Terry (Luce's choice model where more than two are shown), all methods' adding "
    "up to 1, with a tie of one vote between every two that met. Agreement: Krippendorff's alpha, nominal."
)


def report(config: ReportConfig) -> Path:
    """Write report/ into the study's folder; its path comes back. Raises UserError: no study, no votes, no such model.

    What a vision-language model answers is kept in the study's folder, too.
    """
    folder = Path(config.study)
    study = read_study(folder)
    if not (folder / VOTES).exists():
        raise UserError(f"{folder}: nobody has voted yet; start b4m vote serve {folder}")
    store = Store(folder / VOTES, study.key)
    try:
        witness = _witness(config.vlm, folder) if config.vlm else None
        return write_report(folder / FOLDER, study, store, witness=witness)
    finally:
        store.close()


def _witness(name: str, folder: Path) -> Witness:
    """A vision-language model's part in the report: a count of votes on one question -> what `beside` finds."""
    import torch  # takes seconds that a report without it need not wait for

    from ...evaluation.vlm import load_vlm
    from .witness import beside

    vlm = load_vlm(name, "cuda" if torch.cuda.is_available() else "cpu", folder / ANSWERS)
    return lambda votes: beside(folder / IMAGES, votes, vlm)


def write_report(
    folder: Path, study: Study, store: Store, notice: str = "", witness: Witness | None = None
) -> Path:
    """report.md, report.json, shares.csv, votes.csv and bars.png. notice: said first in every one of them."""
    counted = count(study, store.voters(), store.votes())
    numbers = tally(study, counted)
    if not numbers:
        raise UserError(f"{store.path}: no vote that counts yet; let somebody vote, then ask again")
    if witness:
        for asked in (name for name in ASKED["alignment"] if name in numbers):
            numbers[asked]["vlm"] = witness([each for each in counted.votes if each[0].asked == asked])
    facts = {"notice": notice, "ours": study.ours, "voters": _voters(counted), "asked": numbers}
    write_text(folder / "report.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "report.md", as_markdown(study, counted, numbers, notice))
    notices = {"notice": notice} if notice else {}
    write_atomic(folder / "shares.csv", lambda path: _write_csv(path, _shares(numbers, notices)))
    write_atomic(folder / "votes.csv", lambda path: _write_csv(path, _votes(counted, notices)))
    drawn = figure(numbers, study.ours, notice)
    write_atomic(folder / "bars.png", lambda path: drawn.savefig(path, dpi=130))
    return folder


def as_markdown(study: Study, counted: Counted, numbers: Mapping[str, Any], notice: str) -> str:
    """The report in words and tables."""
    parts = [f"# {_cell(study.title)}"]
    if notice:
        parts.append(f"**{notice}**")
    parts += ["\n".join(f"- {line}" for line in _about(counted)), "![bars](bars.png)", HOW]
    for asked, found in numbers.items():
        parts.append(f"## {TITLES[asked]}")
        parts.append(_facts(found))
        if "vlm" in found:
            parts.append(
                f"**A model beside the voters**: {_cell(found['vlm']['model'])}. {_beside(found['vlm'])}"
            )
        if "against" in found:
            rows = {f"{study.ours}, beside {other}": row for other, row in found["against"].items()}
            parts.append(_table("share", rows, strength=False))
        parts.append(_table("method", found["methods"]))
    return "\n\n".join(parts) + "\n"


def _about(counted: Counted) -> Iterable[str]:
    passed, checks = counted.checks
    everything = f"{counted.finished} of whom answered everything"
    yield f"{_many(counted.voters, 'voter')}, {everything}; {_many(len(counted.votes), 'vote')} count"
    yield (
        f"{_many(counted.inattentive, 'voter')} left out, who missed more than half of their attention checks "
        f"({passed} of {checks} passed by all)"
    )
    for what, groups in (("age", counted.ages), ("expertise", counted.expertise)):
        named = ", ".join(f"{name or 'not said'}: {number}" for name, number in sorted(groups.items()))
        yield f"{what}: {named}"


def _facts(found: Mapping[str, Any]) -> str:
    agreement = "not known" if found["agreement"] is None else f"{found['agreement']:.2f}"
    first, power = found["first_shown"], found["power"]
    ends = _ends([first["low"], first["high"]], _percent)
    names = " and ".join(map(_cell, power["between"]))
    return (
        f"{_many(found['votes'], 'vote')} of {_many(found['voters'], 'voter')} on {_many(found['pairs'], 'pair')}. "
        f"Agreement {agreement}. What was shown first was chosen in {_percent(first['mean'])} {ends}. "
        f"A difference of {100 * power['difference']:.0f} points between {names} needs {power['votes']} votes, that is "
        f"{_many(power['voters'], 'voter')} with {power['votes_each']:.1f} votes each "
        f"(80 % power, 5 % level, design effect {power['design_effect']:.2f})."
    )


def _beside(found: Mapping[str, Any]) -> str:
    told = f"It tells the choices apart in {found['told_apart']} of {_many(found['questions'], 'question')}"
    if not found["votes"]:
        return f"{told}: nothing can be compared."
    agree, chance, votes = _percent(found["agree"]), _percent(found["chance"]), _many(found["votes"], "vote")
    mean, *ends = found["beyond"]
    return (
        f"{told}; there it says yes to what was chosen in {agree} of {votes}, "
        f"where blind choices come to {chance}: {_percent(mean)} more {_ends(ends, _percent)}."
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _table(first: str, rows: Mapping[str, Any], strength: bool = True) -> str:
    lines = [[first, "chosen", "shown", "share", "Wilson", "bootstrap", *(["strength"] if strength else [])]]
    lines.append(["---"] * len(lines[0]))
    for name, row in rows.items():
        cells = [_cell(name), str(row["chosen"]), str(row["shown"]), _percent(row["share"])]
        cells += [_ends(row["wilson"], _percent), _ends(row["bootstrap"], _percent)]
        if strength:
            value = row["strength"]
            cells.append(f"{value['mean']:.3f} {_ends([value['low'], value['high']], '{:.3f}'.format)}")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _ends(ends: Sequence[float | None], form: Any) -> str:
    return "–" if None in ends else f"[{form(ends[0])}, {form(ends[1])}]"


def _cell(text: str) -> str:
    """One line of text that Markdown shows as it is."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|<>*_`[]!&#" else letter for letter in plain)


def _voters(counted: Counted) -> dict[str, Any]:
    return {name: value for name, value in vars(counted).items() if name != "votes"}


def _shares(numbers: Mapping[str, Any], more: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    for asked, found in numbers.items():
        rows = [("all", name, row) for name, row in found["methods"].items()]
        rows += [(other, "ours", row) for other, row in found.get("against", {}).items()]
        for beside, method, row in rows:
            yield {
                "study": found["study"],
                "asked": asked,
                "method": method,
                "beside": beside,
                "chosen": row["chosen"],
                "shown": row["shown"],
                "share": row["share"],
                **dict(zip(("wilson_low", "wilson_high"), row["wilson"], strict=True)),
                **dict(zip(("bootstrap_low", "bootstrap_high"), row["bootstrap"], strict=True)),
                "strength": row["strength"]["mean"],
                **more,
            }


def _votes(counted: Counted, more: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    for question, vote in counted.votes:
        yield {
            "voter": vote.voter,
            "study": question.study,
            "asked": question.asked,
            "pair": question.pair,
            "prompt": question.prompt,
            "question": question.id,
            "chosen": vote.chosen,
            "shown": json.dumps(vote.shown, ensure_ascii=False),
            **more,
        }


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    every = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(every[0]))
        writer.writeheader()
        writer.writerows({name: _safe(value) for name, value in row.items()} for row in every)


def _safe(value: Any) -> Any:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
