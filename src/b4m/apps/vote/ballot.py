"""What one voter is asked and in which order: a function of the study's key and the voter's number alone."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

from .questions import Option, Question, Study

T = TypeVar("T")


def ballot(study: Study, voter: int) -> list[Question]:
    """The questions of voter number `voter` (0, 1, ...), in the voter's own order, study by study.

    Voters take turns through a study's questions, so that after some time each was asked as often as any other.
    """
    order = _order(study, voter)
    asked: list[Question] = []
    for name in order.sample(study.studies, len(study.studies)):
        own = _turn(study.of(name, check=False), voter, study.votes)
        order.shuffle(own)
        for check in _turn(study.of(name, check=True), voter, study.checks):
            own.insert(order.randint(1, len(own)), check)
        asked += own
    return asked


def sides(study: Study, voter: int, question: Question) -> list[Option]:
    """The question's options in the order in which this voter sees them."""
    return _order(study, voter, question.id).sample(question.options, len(question.options))


def _turn(questions: Sequence[T], voter: int, count: int) -> list[T]:
    count = min(count, len(questions))
    return [questions[(voter * count + i) % len(questions)] for i in range(count)]


def _order(study: Study, *what: int | str) -> random.Random:
    """Seeded with the study's secret key: who knows only the pages cannot work out what was shuffled."""
    text = "/".join(map(str, (study.key, *what)))
    return random.Random(hashlib.sha256(text.encode()).digest())
