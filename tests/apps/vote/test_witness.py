"""A vision-language model beside voters: what is compared, by hand, and what stands in the report."""

import json

import numpy as np
import pytest
from test_report import cast
from voting import METHODS, a_study

from b4m.apps.vote.questions import IMAGES, VOTES, read_study
from b4m.apps.vote.report import write_report
from b4m.apps.vote.store import Store
from b4m.apps.vote.tally import count
from b4m.apps.vote.witness import beside, opened
from b4m.evaluation.metrics import crossed_interval
from b4m.evaluation.vlm import Vlm

OURS, JOINT, WORDS = METHODS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return a_study(tmp_path_factory.mktemp("study"), items=4, studies=("alignment",))


@pytest.fixture
def study(folder):
    return read_study(folder)


@pytest.fixture
def counted(study, tmp_path):
    """Six voters on every question of I: 0 to 3 choose ours, 4 and 5 joint training."""
    store = Store(tmp_path / VOTES, study.key, flush=False)
    cast(study, store, lambda voter, q, shown: OURS if voter < 4 else JOINT)
    yield count(study, store.voters(), store.votes()), store
    store.close()


def seeing(folder, study, likes) -> Vlm:
    """A stand-in that says yes to the images of `likes`, and is asked with references first."""
    methods = {
        np.asarray(opened(folder / IMAGES, option.images[0])).tobytes(): option.method
        for question in study.questions
        if not question.right
        for option in question.options
    }

    def ask(pictures, question):
        assert len(pictures) == 2  # one reference in this study
        return "yes" if methods[np.asarray(pictures[-1]).tobytes()] in likes else "cannot say"

    return Vlm("stand-in", ask, "0" * 64)


def on(counted, asked):
    return [(question, vote) for question, vote in counted.votes if question.asked == asked]


@pytest.mark.parametrize("asked", ["content", "style", "both"])
def test_a_yes_is_compared_with_what_was_chosen(folder, study, counted, asked):
    votes = on(counted[0], asked)
    found = beside(folder / IMAGES, votes, seeing(folder, study, {OURS}))
    assert found["told_apart"] == found["questions"] == len({question.id for question, _ in votes})
    assert (found["votes"], found["agree"], found["chance"]) == (
        len(votes),
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
    )
    pairs = {question.pair for question, _ in votes}
    expected = {(str(voter), pair): (voter < 4) - 1 / 3 for voter in range(6) for pair in pairs}
    assert found["beyond"] == pytest.approx(list(crossed_interval(expected)))
    two = beside(folder / IMAGES, votes, seeing(folder, study, {OURS, JOINT}))
    assert (two["agree"], two["chance"]) == (1, pytest.approx(2 / 3))


@pytest.mark.parametrize("likes", [set(), set(METHODS)])
def test_a_model_that_always_says_the_same_is_compared_with_nothing(folder, study, counted, likes):
    found = beside(folder / IMAGES, on(counted[0], "content"), seeing(folder, study, likes))
    assert (found["told_apart"], found["votes"]) == (0, 0) and "agree" not in found


def test_the_report_says_it(folder, study, counted, tmp_path):
    vlm = seeing(folder, study, {OURS})
    made = write_report(
        tmp_path / "report", study, counted[1], witness=lambda votes: beside(folder / IMAGES, votes, vlm)
    )
    text = (made / "report.md").read_text()
    assert (
        text.count("**A model beside the voters**: stand-in. It tells the choices apart in 4 of 4 questions")
        == 3
    )
    assert "66.7 % of 24 votes, where blind choices come to 33.3 %: 33.3 % more [" in text
    assert json.loads((made / "report.json").read_text())["asked"]["style"]["vlm"]["votes"] == 24
    plain = write_report(tmp_path / "plain", study, counted[1])
    assert "A model" not in (plain / "report.md").read_text()
