"""Ranks, their correlation over pairs, and what a pair lost by being put together (`examples/foretell.py`)."""

import foretell
import pytest


def test_rank_correlation_sees_order_alone_and_shares_ranks_of_equals():
    assert foretell.spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert foretell.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # By hand: ranks 1, 2.5, 2.5, 4 beside 1, 2, 3, 4; 4.5 / sqrt(4.5 * 5).
    assert foretell.spearman([1, 2, 2, 4], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_the_interval_holds_what_is_certain_and_is_wide_for_chance():
    pairs = [(c, s) for c in "abcd" for s in "wxyz"]
    x = {pair: float(number) for number, pair in enumerate(pairs)}
    same = foretell.correlated(x, {pair: 2 * value for pair, value in x.items()}, resamples=200)
    assert same["rho"] == pytest.approx(1) and same["low"] == pytest.approx(1)
    chance = foretell.correlated(x, {pair: float((7 * n) % 5) for n, pair in enumerate(pairs)}, resamples=200)
    assert chance["low"] < 0 < chance["high"]


def test_a_pair_loses_what_its_halves_had_alone():
    def scored(row, content, style):
        return {"row": row, "content_name": "cat", "style_name": "oil", "content": content, "style": style}

    scores = [
        scored("content alone", "0.9", "0.1"),
        scored("style alone", "0.2", "0.8"),
        scored("together", "0.7", "0.5"),
    ]
    assert foretell.lost(scores, "together") == {("cat", "oil"): pytest.approx(0.25)}
