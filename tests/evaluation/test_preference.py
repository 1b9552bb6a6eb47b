"""Shares, strengths, agreement and power against hand computations, slow references and simulations."""

from collections import Counter
from itertools import permutations
from math import isnan, sqrt

import numpy as np
import pytest

from b4m.evaluation.agreement import krippendorff_alpha
from b4m.evaluation.power import design_effect, votes_needed
from b4m.evaluation.preference import Vote, preferences, strengths, wilson


def test_wilson_is_the_textbook_interval():
    found = wilson(8, 10)  # both ends solve (share - p)^2 = z^2 p (1 - p) / n
    for end in (found.low, found.high):
        assert (0.8 - end) ** 2 == pytest.approx(1.959963985**2 * end * (1 - end) / 10)
    assert found.mean == 0.8 and found.low < 0.8 < found.high
    none, all_ = wilson(0, 10), wilson(10, 10)
    assert none.low == pytest.approx(0, abs=1e-12) and all_.high == pytest.approx(1)
    assert none.high == pytest.approx(0.2775, abs=1e-4) and all_.low == pytest.approx(1 - 0.2775, abs=1e-4)
    for successes, trials in ((1, 0), (-1, 2), (3, 2)):
        with pytest.raises(ValueError):
            wilson(successes, trials)


def duels(*wins: tuple[str, str, int]) -> list[Vote]:
    """(winner, loser, votes) -> votes, each by a voter of its own."""
    every = [(won, lost) for won, lost, votes in wins for _ in range(votes)]
    return [Vote(voter, "pair", tuple(sorted(two)), two[0]) for voter, two in enumerate(every)]


def test_two_methods_end_at_wins_and_half_a_tie():
    found = preferences(duels(("a", "b", 30), ("b", "a", 10)), resamples=50)
    assert found["a"].strength.mean == pytest.approx(30.5 / 41)
    assert found["b"].strength.mean == pytest.approx(10.5 / 41)
    assert (found["a"].share.mean, found["a"].chosen, found["a"].shown) == (0.75, 30, 40)
    always = preferences(duels(("a", "b", 9)), resamples=50)
    assert always["a"].strength.mean == pytest.approx(0.95) and list(always) == ["a", "b"]


def test_strengths_are_the_most_likely_ones():
    """The likelihood, written out vote by vote and virtual tie by tie, falls in every direction from them."""
    rng = np.random.default_rng(0)
    members = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]], bool)
    wins = rng.integers(1, 20, members.shape) * members
    found = strengths(wins.astype(float), members)

    def likelihood(w: np.ndarray) -> float:
        total = 0.0
        for won, there in zip(wins, members, strict=True):
            total += sum(n * np.log(w[i] / w[there].sum()) for i, n in enumerate(won) if n)
        for i, j in permutations(range(4), 2):
            total += 0.5 * np.log(w[i] / (w[i] + w[j]))
        return total

    best = likelihood(found)
    for i in range(4):
        for step in (0.99, 1.01):
            moved = found.copy()
            moved[i] *= step
            assert likelihood(moved) < best
    many = strengths(np.stack([wins, wins[:, ::-1]]).astype(float), members)
    np.testing.assert_allclose(many[0], found, atol=1e-8)


def test_methods_that_never_met_are_not_compared():
    with pytest.raises(ValueError):
        preferences([*duels(("a", "b", 3)), *duels(("c", "d", 3))], resamples=10)
    with pytest.raises(ValueError):
        preferences([])
    chained = preferences(
        [*duels(("a", "b", 30), ("b", "a", 10)), *duels(("b", "c", 30), ("c", "b", 10))], 10
    )
    a, b, c = (chained[name].strength.mean for name in "abc")
    assert a / b == pytest.approx(30.5 / 10.5) and b / c == pytest.approx(30.5 / 10.5)


def test_the_bootstrap_draws_voters_and_pairs():
    """Against a slow one written out, and wider than Wilson's where voters repeat themselves."""
    rng = np.random.default_rng(1)
    alike = [
        Vote(voter, f"pair {pair}", ("a", "b"), "a" if voter % 3 else "b")
        for voter in range(12)
        for pair in range(6)
    ]
    found = preferences(alike, resamples=2000)["a"]
    assert found.share.high - found.share.low > 1.8 * (found.wilson.high - found.wilson.low)
    shares = []
    for _ in range(2000):
        voters = Counter(rng.integers(12, size=12).tolist())
        pairs = Counter(rng.integers(6, size=6).tolist())
        weights = [voters[vote.voter] * pairs[int(vote.pair[-1])] for vote in alike]
        shares.append(np.average([vote.chosen == "a" for vote in alike], weights=weights))
    slow = np.quantile(shares, (0.025, 0.975))
    assert found.share.low == pytest.approx(slow[0], abs=0.03) and found.share.high == pytest.approx(
        slow[1], abs=0.03
    )
    by_pair = [vote._replace(chosen="a" if vote.pair in ("pair 0", "pair 1") else "b") for vote in alike]
    wide = preferences(by_pair, resamples=2000)["a"]
    assert wide.share.high - wide.share.low > 1.8 * (wide.wilson.high - wide.wilson.low)


def test_one_voter_on_one_pair_has_no_spread():
    one = preferences([Vote(0, "p", ("a", "b"), "a")] * 5)["a"]
    assert (
        isnan(one.share.low)
        and isnan(one.strength.high)
        and one.share.mean == 1
        and not isnan(one.wilson.low)
    )


def test_a_share_counts_only_the_votes_that_showed_the_method():
    votes = [*duels(("a", "b", 6)), *duels(("c", "a", 4))]
    found = preferences(votes, resamples=20)
    assert (found["a"].shown, found["b"].shown, found["c"].shown) == (10, 6, 4)
    assert (found["a"].share.mean, found["b"].share.mean, found["c"].share.mean) == (0.6, 0, 1)


def test_strengths_of_a_known_crowd_are_recovered():
    rng = np.random.default_rng(2)
    true = np.array([0.5, 0.3, 0.15, 0.05])
    votes = []
    for number in range(3000):
        shown = rng.choice(4, size=rng.integers(2, 5), replace=False)
        chosen = rng.choice(shown, p=true[shown] / true[shown].sum())
        votes.append(Vote(number % 50, f"pair {number % 7}", tuple(str(i) for i in shown), str(chosen)))
    found = preferences(votes, resamples=400)
    for i, strength in enumerate(true):
        interval = found[str(i)].strength
        assert interval.mean == pytest.approx(strength, abs=0.03)
        assert interval.low - 0.01 < strength < interval.high + 0.01


PUBLISHED = [  # Krippendorff 2011, section C: 12 units, four observers
    "111", "2223", "3333", "3333", "2222", "1234", "4444", "1121", "2222", "555", "11", "3",
]  # fmt: skip


def test_alpha_is_the_published_one():
    assert krippendorff_alpha(PUBLISHED) == pytest.approx(0.743, abs=5e-4)
    # Two coders, two names, by hand: o = 2 unlike of 20 values (10 units, 1 apart), n = 13 and 7.
    two = ["aa"] * 6 + ["bb"] * 3 + ["ab"]
    assert krippendorff_alpha(two) == pytest.approx(1 - 19 * 2 / (2 * 13 * 7))


def test_alpha_at_its_ends():
    assert krippendorff_alpha(["aaa", "bbb"]) == 1
    assert (
        isnan(krippendorff_alpha(["aa", "aa"]))
        and isnan(krippendorff_alpha(["a", "b"]))
        and isnan(krippendorff_alpha([]))
    )
    assert krippendorff_alpha(["ab"] * 50) < 0
    coins = np.random.default_rng(0).choice(list("ab"), size=(500, 10))
    assert abs(krippendorff_alpha(["".join(row) for row in coins])) < 0.02


def test_votes_needed_by_hand_and_by_simulation():
    z, power_z = 1.959963985, 0.841621234
    assert votes_needed(0.1) == int(((z * 1 + power_z * sqrt(0.99)) / 0.1) ** 2) + 1 == 783
    rng = np.random.default_rng(0)
    for difference, together in ((0.1, 1.0), (0.1, 0.6), (0.3, 1.0)):
        votes = votes_needed(difference, together)
        first, second = (together + difference) / 2, (together - difference) / 2
        counts = rng.multinomial(votes, [first, second, 1 - together], size=4000)
        z_found = (counts[:, 0] - counts[:, 1]) / np.sqrt(counts[:, 0] + counts[:, 1])
        assert np.mean(np.abs(z_found) > z) == pytest.approx(0.8, abs=0.03)
    for difference, together in ((0, 1), (0.5, 0.4), (0.1, 1.1)):
        with pytest.raises(ValueError):
            votes_needed(difference, together)


def test_the_design_effect_is_that_of_repeating_voters():
    alike = [Vote(voter, "p", ("a", "b"), "ab"[voter % 2]) for voter in range(10) for _ in range(7)]
    assert design_effect(alike, "a", "b") == pytest.approx(7)
    fair = [Vote(voter, "p", ("a", "b"), "ab"[i % 2]) for voter in range(10) for i in range(8)]
    assert design_effect(fair, "a", "b") == 1
    assert design_effect([Vote(0, "p", ("a", "b"), "a")] * 3, "a", "b") == 1
