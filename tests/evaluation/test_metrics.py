"""Scores: by hand with numpy, against a slow reference, and what an interval promises."""

import itertools
import math

import numpy as np
import pytest
import torch

from b4m.evaluation.metrics import Interval, alignment, diversity, interval, paired_interval


def cosine(a, b) -> float:
    """One cosine, in plain Python."""
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randn(7, 19, generator=torch.Generator().manual_seed(0)) * 5 + 1


def test_alignment_by_hand():
    features, references = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(alignment(features, references), torch.tensor([0.7, 0.5]))


def test_alignment_is_the_slow_mean_of_cosines(rows):
    slow = [np.mean([cosine(a, b) for b in rows[4:].tolist()]) for a in rows[:4].tolist()]
    assert np.abs(alignment(rows[:4], rows[4:]).numpy() - slow).max() < 1e-5
    assert alignment(rows[:4], rows[4:]).shape == (4,)


def test_alignment_forgets_lengths(rows):
    scaled = rows * torch.arange(1, 8)[:, None]
    assert torch.allclose(alignment(scaled[:4], scaled[4:]), alignment(rows[:4], rows[4:]), atol=1e-6)


def test_diversity_by_hand_and_slowly(rows):
    assert diversity(torch.tensor([[1.0, 0.0], [0.0, 2.0]])) == pytest.approx(1.0)
    assert diversity(torch.ones(3, 4)) == pytest.approx(0.0)
    pairs = itertools.combinations(rows.tolist(), 2)
    assert diversity(rows) == pytest.approx(1 - np.mean([cosine(a, b) for a, b in pairs]), abs=1e-5)


def test_torchmetrics_agrees(rows):
    functional = pytest.importorskip("torchmetrics.functional", reason="torchmetrics is not installed")
    theirs = functional.pairwise_cosine_similarity(rows[:4], rows[4:]).mean(1)
    assert torch.allclose(alignment(rows[:4], rows[4:]), theirs, atol=1e-5)


def test_interval_is_the_percentile_bootstrap_over_pairs():
    values = np.random.default_rng(3).normal(0.5, 0.1, 12)
    found = interval(values, resamples=500, seed=4)
    draws = np.random.default_rng(4).integers(12, size=(500, 12))
    means = sorted(sum(values[i] for i in draw) / 12 for draw in draws)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.percentile(means, 2.5))
    assert found.high == pytest.approx(np.percentile(means, 97.5))


def test_interval_is_the_same_for_the_same_seed():
    values = np.random.default_rng(0).random(10)
    assert interval(values) == interval(values)
    assert interval(values) != interval(values, seed=1)
    narrow, wide = interval(values, level=0.5), interval(values)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    found = [interval(rng.normal(0.3, 0.2, 40), resamples=400, seed=i) for i in range(300)]
    share = np.mean([each.low <= 0.3 <= each.high for each in found])
    assert 0.90 <= share <= 0.985  # percentile intervals of 40 pairs run a little short of 95 %


def test_one_pair_has_no_ends():
    found = interval([0.4])
    assert found.mean == 0.4 and math.isnan(found.low) and math.isnan(found.high)


def test_pairing_takes_out_what_the_pairs_have_in_common():
    rng = np.random.default_rng(0)
    common = rng.normal(0, 1, 30)
    a, b = common + 0.1 + rng.normal(0, 0.01, 30), common
    found = paired_interval(a, b)
    assert isinstance(found, Interval) and found == interval(a - b)
    assert 0.08 < found.low < found.high < 0.12
    assert interval(a).high - interval(a).low > 10 * (found.high - found.low)


@pytest.mark.parametrize(
    "call",
    [
        lambda: alignment(torch.ones(2, 3), torch.ones(2, 4)),
        lambda: alignment(torch.ones(3), torch.ones(2, 3)),
        lambda: alignment(torch.ones(2, 3), torch.ones(0, 3)),
        lambda: alignment(torch.ones(0, 3), torch.ones(2, 3)),
        lambda: diversity(torch.ones(1, 3)),
        lambda: interval([]),
        lambda: interval([0.1, float("nan")]),
        lambda: paired_interval([0.1, 0.2], [0.1]),
    ],
)
def test_what_has_no_score_is_refused(call):
    with pytest.raises(ValueError):
        call()
