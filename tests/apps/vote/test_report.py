"""The report: equal to a hand computation, true to simulated voters, honest about who is counted."""

import csv
import json
import random

import pytest
from conftest import refused
from voting import METHODS, a_study

from b4m.apps.cli import main
from b4m.apps.vote.ballot import ballot, sides
from b4m.apps.vote.questions import VOTES, read_study
from b4m.apps.vote.report import as_markdown, write_report
from b4m.apps.vote.simulate import vote_all
from b4m.apps.vote.store import Store
from b4m.apps.vote.tally import count, tally

OURS, JOINT, WORDS = METHODS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study whose names and key are always the same ones: what simulated voters answer follows from them."""
    numbers = random.Random(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_hex", lambda size: numbers.randbytes(size).hex())
        return a_study(tmp_path_factory.mktemp("study"), items=4)


@pytest.fixture
def store(folder, tmp_path):
    store = Store(tmp_path / VOTES, read_study(folder).key, flush=False)
    yield store
    store.close()


def cast(study, store, choose, attentive=lambda voter: True, voters=6, only=None) -> None:
    """Every voter answers what `only` allows: choose(voter, question, methods) -> method."""
    for number in range(voters):
        voter = store.voter(store.join(None, age="18 to 29" if number < 2 else ""))
        for question in ballot(study, voter):
            shown = [option.method for option in sides(study, voter, question)]
            if question.right:
                wrong = next(name for name in shown if name != question.right)
                store.add(voter, question.id, question.right if attentive(number) else wrong, shown)
            elif only is None or question.asked in only:
                store.add(voter, question.id, choose(number, question, shown), shown)


def numbers_of(study, store):
    return tally(study, count(study, store.voters(), store.votes()))


def test_the_report_is_the_hand_computation(folder, store, tmp_path):
    """Six voters, four questions of II: voters 0 to 3 choose ours always, 4 and 5 never: 16 of 24 votes."""
    study = read_study(folder)
    cast(
        study,
        store,
        lambda voter, q, shown: OURS if voter < 4 else next(m for m in shown if m != OURS),
        only=("success",),
    )
    found = numbers_of(study, store)["success"]
    assert (found["votes"], found["voters"], found["pairs"]) == (24, 6, 2)
    ours = found["methods"][OURS]
    assert (ours["chosen"], ours["shown"], ours["share"]) == (16, 24, pytest.approx(2 / 3))
    assert ours["wilson"] == pytest.approx([0.46706, 0.82028], abs=2e-5)  # 2/3 of 24, z = 1.959964, by hand
    for other in (JOINT, WORDS):  # two of the four questions each
        beside = found["against"][other]
        assert (beside["chosen"], beside["shown"]) == (8, 12)
        assert beside["strength"]["mean"] == pytest.approx(8.5 / 13)
    # ours beats each by 8.5 to 4.5 with half a tie: strengths 17 : 9 : 9
    assert ours["strength"]["mean"] == pytest.approx(17 / 35, abs=1e-6)
    assert found["methods"][JOINT]["strength"]["mean"] == pytest.approx(9 / 35, abs=1e-6)
    # alpha: each question has 4 x ours, 2 x another; seen 4 * (36 - 16 - 4) / 5, apart 24^2 - 16^2 - 8^2
    assert found["agreement"] == pytest.approx(1 - 23 * (4 * 16 / 5) / 256)
    # each voter always votes alike, four times: a design effect of four
    assert found["power"]["design_effect"] == pytest.approx(4)
    assert (found["power"]["votes"], found["power"]["voters"]) == (783 * 4, 783)


def test_voters_who_toss_coins_do_not_seem_to_agree(folder, store):
    study = read_study(folder)
    cast(study, store, lambda voter, q, shown: shown[0], voters=40)
    found = numbers_of(study, store)
    assert all(abs(entry["agreement"]) < 0.1 for entry in found.values())
    assert all(entry["first_shown"]["mean"] == 1 for entry in found.values())  # and the report says why


def test_inattentive_voters_are_left_out_and_counted(folder, store):
    study = read_study(folder)
    cast(
        study,
        store,
        lambda voter, q, shown: OURS if voter else JOINT if JOINT in shown else WORDS,
        lambda voter: voter > 0,
    )
    counted = count(study, store.voters(), store.votes())
    assert (counted.voters, counted.inattentive, counted.finished) == (6, 1, 6)
    assert counted.checks == (5 * 3, 6 * 3)
    assert counted.ages == {"18 to 29": 2, "": 4}
    assert all(entry["methods"][OURS]["share"] == 1 for entry in tally(study, counted).values())
    assert all(not question.right for question, _ in counted.votes)


def test_simulated_voters_with_known_preferences_are_recovered(folder, store):
    study = read_study(folder)
    vote_all(study, store, {OURS: 4.0, JOINT: 2.0, WORDS: 1.0}, voters=150)
    found = numbers_of(study, store)
    true = {OURS: 4 / 7, JOINT: 2 / 7, WORDS: 1 / 7}
    for asked, entry in found.items():
        for method, strength in true.items():
            interval = entry["methods"][method]["strength"]
            assert interval["mean"] == pytest.approx(strength, abs=0.05), asked
            assert interval["low"] - 0.02 < strength < interval["high"] + 0.02
    for method, share in true.items():
        assert found["both"]["methods"][method]["share"] == pytest.approx(share, abs=0.05)
    assert found["success"]["against"][JOINT]["share"] == pytest.approx(4 / 6, abs=0.06)
    assert found["consistency"]["against"][WORDS]["share"] == pytest.approx(4 / 5, abs=0.06)
    assert list(found) == ["content", "style", "both", "success", "consistency"]


def test_files_of_a_report(folder, store, tmp_path):
    study = read_study(folder)
    cast(study, store, lambda voter, q, shown: OURS, voters=3)
    out = write_report(tmp_path / "report", study, store)
    assert sorted(path.name for path in out.iterdir()) == [
        "bars.png", "report.json", "report.md", "shares.csv", "votes.csv",
    ]  # fmt: skip
    facts = json.loads((out / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert facts["asked"]["success"]["methods"][OURS]["share"] == 1
    with (out / "votes.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(store.votes()) - 3 * 3 and {row["chosen"] for row in rows} == {OURS}
    with (out / "shares.csv").open(encoding="utf-8") as file:
        shares = list(csv.DictReader(file))
    assert {row["method"] for row in shares} >= {*METHODS, "ours"}
    assert "SIMULATED" not in (out / "report.md").read_text()


def test_names_are_text_in_the_report(folder, store, tmp_path):
    study = read_study(folder)
    cast(study, store, lambda voter, q, shown: OURS, voters=2)
    counted = count(study, store.voters(), store.votes())
    odd = "<img src=x>|[a](b)*"
    facts = json.loads(json.dumps(tally(study, counted)).replace(OURS, odd))
    text = as_markdown(study, counted, facts, "")
    assert "\\<img src=x\\>\\|\\[a\\](b)\\*" in text and odd not in text
    from b4m.apps.vote.report import _safe

    assert _safe("=1+1") == "'=1+1" and _safe("@x") == "'@x" and _safe("a=1") == "a=1" and _safe(-1.0) == -1.0


def test_simulated_votes_are_said_to_be_and_kept_apart(tmp_path, capsys):
    folder = str(a_study(tmp_path, items=2))
    assert main(["vote", "report", folder]) == 2 and "nobody has voted" in capsys.readouterr().err
    command = ["vote", "simulate", folder, "--voters", "5", "--strengths", f"{OURS}=3"]
    assert main(command) == 0 and main(command) == 0  # again: anew, not on top
    out = tmp_path / "study" / "simulated"
    assert (
        "SIMULATED VOTERS" in (out / "report.md").read_text()
        and "5 voters" in (out / "report.md").read_text()
    )
    assert "SIMULATED" in (out / "votes.csv").read_text() and "SIMULATED" in (out / "report.json").read_text()
    assert not (tmp_path / "study" / VOTES).exists()
    assert main(["vote", "report", folder]) == 2
    for wrong in ("other=3", f"{OURS}=0", f"{OURS}=x", "3", f"{OURS}=inf"):
        assert main(["vote", "simulate", folder, "--strengths", wrong]) == 2


def test_no_vote_that_counts_is_no_report(folder, store, tmp_path):
    refused(lambda: write_report(tmp_path / "report", read_study(folder), store), "no vote that counts")
    assert not (tmp_path / "report").exists()
