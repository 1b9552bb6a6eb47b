"""What votes say: shares with Wilson intervals, Bradley-Terry strengths, a bootstrap over voters and pairs."""

from collections.abc import Sequence
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from .metrics import Interval

LEVEL = 0.95


class Vote(NamedTuple):
    """One voter's choice of one method among those that the question showed."""

    voter: int
    pair: str  # the content and the style that the question is about
    options: tuple[str, ...]  # methods, in any order
    chosen: str


class Preference(NamedTuple):
    """One method's part in the votes."""

    shown: int  # votes that could have gone to it
    chosen: int
    wilson: Interval  # of the share chosen / shown, as if all votes were independent
    share: Interval  # the same share; resampled over voters and pairs
    strength: Interval  # Bradley-Terry, all methods' strengths adding up to 1; resampled likewise


def wilson(successes: float, trials: float, level: float = LEVEL) -> Interval:
    """Share of `successes` in independent `trials`, with Wilson's score interval (Wilson 1927).

    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def strengths(wins: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Strengths (..., k), adding up to 1, with which the votes are most likely.

    wins (..., s, k): votes for each of k methods when each of s sets was shown; members (s, k) bool: who is in a set.
    Model: a method is chosen from a set with probability strength / sum of the set's strengths. For sets of two that
    is Bradley and Terry 1952, for larger ones Luce 1959; found by Hunter's MM steps (2004, Annals of Statistics 32).
    Methods that met get a tie of one vote between each two of them (half a vote each), so that one that always won
    has a finite strength: two methods end at (wins + 1/2) / (votes + 1). Methods that no chain of sets joins
    cannot be compared: ValueError.
    """
    met = members.astype(int).T @ members.astype(int) > 0
    if not np.linalg.matrix_power(met.astype(float), len(met)).all():
        raise ValueError("some methods never met, not even through others")
    ties = np.array([np.isin(range(len(met)), two) for two in combinations(range(len(met)), 2) if met[two]])
    if not len(ties):
        return np.ones((*wins.shape[:-2], len(met)))
    sets = np.concatenate([members, ties]).astype(float)
    halves = np.broadcast_to(ties / 2, (*wins.shape[:-2], *ties.shape))
    votes = np.concatenate([wins, halves], axis=-2)
    won, asked = votes.sum(-2), votes.sum(-1)
    found = np.full(won.shape, 1 / len(met))
    for _ in range(10_000):
        before = found
        found = won / ((asked / (before @ sets.T)) @ sets)
        found = found / found.sum(-1, keepdims=True)
        if np.abs(found - before).max() < 1e-9:
            break
    return found


def preferences(votes: Sequence[Vote], resamples: int = 2000, seed: int = 0) -> dict[str, Preference]:
    """Every method's share and strength, in the order of its share.

    The bootstrap draws voters with replacement and pairs likewise; a vote counts as often as its voter was drawn
    times as often as its pair (Owen 2007, as in `metrics.crossed_interval`). With a single voter and a single pair
    nothing can be resampled: ends are nan. Raises ValueError for no votes.
    """
    if not votes:
        raise ValueError("no votes")
    methods = sorted({method for vote in votes for method in vote.options})
    sets = sorted({tuple(sorted(vote.options)) for vote in votes})
    members = np.array([[method in names for method in methods] for names in sets])
    place = [
        sets.index(tuple(sorted(vote.options))) * len(methods) + methods.index(vote.chosen) for vote in votes
    ]
    wins = _wins(np.ones((1, len(votes))), place, members.shape)
    share, strength = _shares(wins, members)[0], strengths(wins, members)[0]
    drawn = np.concatenate([_wins(some, place, members.shape) for some in _weights(votes, resamples, seed)])
    drawn = drawn[drawn.sum((1, 2)) > 0]
    shares, many = _shares(drawn, members), strengths(drawn, members)
    spread = len({vote.voter for vote in votes}) > 1 or len({vote.pair for vote in votes}) > 1
    shown = (wins[0].sum(1)[:, None] * members).sum(0)
    found = {
        method: Preference(
            int(shown[i]),
            int(wins[0, :, i].sum()),
            wilson(wins[0, :, i].sum(), shown[i]),
            _ends(share[i], shares[:, i], spread),
            _ends(strength[i], many[:, i], spread),
        )
        for i, method in enumerate(methods)
    }
    return dict(sorted(found.items(), key=lambda item: -item[1].share.mean))


def _weights(votes: Sequence[Vote], resamples: int, seed: int):
    """How often each vote counts, (some, votes) at a time."""
    rng = np.random.default_rng(seed)
    voters, voter = np.unique([vote.voter for vote in votes], return_inverse=True)
    pairs, pair = np.unique([vote.pair for vote in votes], return_inverse=True)
    for start in range(0, resamples, 100):
        some = min(100, resamples - start)
        by_voter, by_pair = (
            rng.multinomial(len(names), [1 / len(names)] * len(names), size=some) for names in (voters, pairs)
        )
        yield (by_voter[:, voter] * by_pair[:, pair]).astype(float)


def _wins(weights: np.ndarray, place: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """(resamples, sets, methods): the weighed votes in each cell."""
    hot = np.zeros((len(place), shape[0] * shape[1]))
    hot[np.arange(len(place)), place] = 1
    return (weights @ hot).reshape(len(weights), *shape)


def _shares(wins: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(resamples, methods): votes won over votes in which the method was shown; nan where it never was."""
    shown = wins.sum(2) @ members.astype(float)
    return np.divide(wins.sum(1), shown, out=np.full(shown.shape, np.nan), where=shown > 0)


def _ends(mean: float, resampled: np.ndarray, spread: bool) -> Interval:
    if not spread:
        return Interval(float(mean), float("nan"), float("nan"))
    low, high = np.nanquantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(mean), float(low), float(high))
