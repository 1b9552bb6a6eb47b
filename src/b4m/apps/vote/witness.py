"""How far a vision-language model sees what voters see: its yes and no beside their choices in study I."""

from collections import defaultdict
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from ...data.decode import decode, read_bytes
from ...evaluation.metrics import crossed_interval
from ...evaluation.vlm import Vlm
from .questions import Option, Question
from .store import Cast

SEES = {"content": ("vlm_content",), "style": ("vlm_style",), "both": ("vlm_content", "vlm_style")}


def beside(images: Path, votes: Sequence[tuple[Question, Cast]], vlm: Vlm) -> dict[str, Any]:
    """Of `votes`, all on one of SEES: whether the model says yes to what was chosen, where it tells the choices apart.

    It does where it says yes to some of a question's images and not to all of them (no verdict is no yes). agree: the
    share of the votes there that went to one with a yes; chance: what choosing blindly would come to; beyond: their
    difference with its interval over voters and pairs. images: the folder of the study's. Raises UserError.
    """
    questions = {question.id: question for question, _ in votes}
    liked = {name: _liked(images, question, vlm) for name, question in questions.items()}
    telling = [(q, vote) for q, vote in votes if 0 < len(liked[q.id]) < len(q.options)]
    found = {
        "model": vlm.name,
        "questions": len(questions),
        "told_apart": len({question.id for question, _ in telling}),
        "votes": len(telling),
    }
    if not telling:
        return found
    agree = [float(vote.chosen in liked[question.id]) for question, vote in telling]
    chance = [len(liked[question.id]) / len(question.options) for question, _ in telling]
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (question, vote), right, blind in zip(telling, agree, chance, strict=True):
        cells[str(vote.voter), question.pair].append(right - blind)
    ends = crossed_interval({cell: fmean(values) for cell, values in cells.items()})
    beyond = [None if isnan(value) else value for value in ends]
    return {**found, "agree": fmean(agree), "chance": fmean(chance), "beyond": beyond}


def _liked(images: Path, question: Question, vlm: Vlm) -> set[str]:
    """The methods whose image the model says yes to."""
    references = {
        "vlm_content": [opened(images, name) for name in question.content],
        "vlm_style": [opened(images, name) for name in question.style],
    }

    def yes(option: Option) -> bool:
        picture = opened(images, option.images[0])
        return all(vlm.says(name, [*references[name], picture]) == 1 for name in SEES[question.asked])

    return {option.method for option in question.options if yes(option)}


def opened(images: Path, name: str) -> Image.Image:
    return decode(images / name, read_bytes(images / name)).rgb  # they have no suffix
