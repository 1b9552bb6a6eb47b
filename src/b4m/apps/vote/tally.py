"""From stored votes to numbers: who is counted, and for each study and question the shares, strengths and agreement."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, isnan
from statistics import fmean
from typing import Any

from ...evaluation.agreement import krippendorff_alpha
from ...evaluation.metrics import Interval
from ...evaluation.power import design_effect, votes_needed
from ...evaluation.preference import Preference, Vote, preferences, wilson
from .questions import ASKED, Question, Study
from .store import Cast, Voter

DIFFERENCE = 0.10  # the power's question: two shares that differ by ten points
OTHER = "another method"


@dataclass(frozen=True)
class Counted:
    """The votes that count, each with its question, and what became of the voters."""

    votes: tuple[tuple[Question, Cast], ...]
    voters: int = 0  # who cast a vote
    finished: int = 0
    inattentive: int = 0  # missed more than half of their attention checks; none of their votes counts
    checks: tuple[int, int] = (0, 0)  # passed, of all
    ages: Mapping[str, int] = field(default_factory=dict)
    expertise: Mapping[str, int] = field(default_factory=dict)


def count(study: Study, voters: Sequence[Voter], cast: Sequence[Cast]) -> Counted:
    """The votes of attentive voters. A voter who has seen no check yet counts as attentive."""
    questions = {question.id: question for question in study.questions}
    own: dict[int, list[tuple[Question, Cast]]] = defaultdict(list)
    for vote in cast:
        own[vote.voter].append((questions[vote.question], vote))
    passed = {voter: [vote.chosen == q.right for q, vote in votes if q.right] for voter, votes in own.items()}
    attentive = {voter for voter, right in passed.items() if 2 * sum(right) >= len(right)}
    about = [voter for voter in voters if voter.number in own]
    return Counted(
        votes=tuple(
            (q, vote)
            for voter, votes in own.items()
            if voter in attentive
            for q, vote in votes
            if not q.right
        ),
        voters=len(own),
        finished=sum(len(votes) >= study.length for votes in own.values()),
        inattentive=len(own) - len(attentive),
        checks=(sum(map(sum, passed.values())), sum(map(len, passed.values()))),
        ages=Counter(voter.age for voter in about),
        expertise=Counter(voter.expertise for voter in about),
    )


def tally(study: Study, counted: Counted) -> dict[str, Any]:
    """All numbers of the report, as JSON can hold them: by what was asked ("content", ..., "consistency")."""
    found: dict[str, Any] = {}
    for name in study.studies:
        for asked in ASKED[name]:
            votes = [(q, vote) for q, vote in counted.votes if (q.study, q.asked) == (name, asked)]
            if votes:
                found[asked] = {"study": name, **_numbers(study, votes)}
    return found


def _numbers(study: Study, votes: Sequence[tuple[Question, Cast]]) -> dict[str, Any]:
    pairwise = votes[0][0].study != "alignment"
    plain = [Vote(vote.voter, q.pair, q.methods, vote.chosen) for q, vote in votes]
    found = preferences(plain)
    numbers: dict[str, Any] = {
        "votes": len(votes),
        "voters": len({vote.voter for vote in plain}),
        "pairs": len({vote.pair for vote in plain}),
        "methods": {method: _preference(preference) for method, preference in found.items()},
        "agreement": _number(_agreement(study, votes, pairwise)),
        "first_shown": _interval(wilson(sum(vote.chosen == vote.shown[0] for _, vote in votes), len(votes))),
        "power": _power(study, plain, found, pairwise),
    }
    if pairwise:
        numbers["against"] = {
            other: _preference(preferences(some)[study.ours])
            for other in study.methods
            if (some := [vote for vote in plain if other != study.ours and other in vote.options])
        }
    return numbers


def _agreement(study: Study, votes: Sequence[tuple[Question, Cast]], pairwise: bool) -> float:
    """Krippendorff's alpha over questions.

    In II and III the answers are "ours" and "another": under the other methods' own names, which differ from question
    to question, voters who toss a coin would seem to agree.
    """
    units: dict[str, list[str]] = defaultdict(list)
    for question, vote in votes:
        units[question.id].append(OTHER if pairwise and vote.chosen != study.ours else vote.chosen)
    return krippendorff_alpha(units.values())


def _power(
    study: Study, votes: Sequence[Vote], found: Mapping[str, Preference], pairwise: bool
) -> dict[str, Any]:
    """What it takes to tell two methods apart whose shares differ by DIFFERENCE: in I the two that lead, else ours and
    the others together."""
    if pairwise:
        names, together = (study.ours, OTHER), 1.0
        votes = [v._replace(chosen=v.chosen if v.chosen == study.ours else OTHER) for v in votes]
    else:
        names = tuple(found)[:2]
        together = max(sum(found[name].share.mean for name in names), DIFFERENCE)
    effect = design_effect(votes, *names)
    needed = ceil(round(votes_needed(DIFFERENCE, together) * effect, 6))  # a rounding error is no vote
    each = fmean(Counter(vote.voter for vote in votes).values())
    return {
        "between": list(names),
        "difference": DIFFERENCE,
        "design_effect": effect,
        "votes": needed,
        "votes_each": each,
        "voters": ceil(needed / each),
    }


def _preference(preference: Preference) -> dict[str, Any]:
    return {
        "chosen": preference.chosen,
        "shown": preference.shown,
        "share": preference.share.mean,
        "wilson": [preference.wilson.low, preference.wilson.high],
        "bootstrap": [_number(preference.share.low), _number(preference.share.high)],
        "strength": _interval(preference.strength),
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _number(value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return None if isnan(value) else value
