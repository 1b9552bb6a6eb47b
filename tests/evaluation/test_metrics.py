"""Scores: by hand with numpy, against a slow reference, and what an interval promises."""

import itertools
import math

import numpy as np
import pytest
import torch

from b4m.evaluation.metrics import alignment, crossed_interval, diversity, interval


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


def test_interval_is_the_percentile_bootstrap_over_values():
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


@pytest.mark.parametrize("found", [interval([0.4]), crossed_interval({("bear", "chalk"): 0.4})])
def test_one_value_has_no_ends(found):
    assert found.mean == 0.4 and math.isnan(found.low) and math.isnan(found.high)


# --- over contents and styles ---


def grid(contents=4, styles=4, content_effect=0.1, style_effect=0.1, noise=0.1, seed=0) -> dict:
    """A value for every pair: the sum of its content's effect, its style's and noise, all around 0.5."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.normal(0, content_effect, contents), rng.normal(0, style_effect, styles)
    values = 0.5 + rows[:, None] + columns + rng.normal(0, noise, (contents, styles))
    return {(f"c{i}", f"s{j}"): values[i, j] for i in range(contents) for j in range(styles)}


def slow_means(values: dict, drawn_contents, drawn_styles) -> list[float]:
    """The mean over a grid that is written out: every drawn content with every drawn style, repeats and all."""
    means = []
    for contents, styles in zip(drawn_contents, drawn_styles, strict=True):
        met = [values[pair] for pair in itertools.product(contents, styles) if pair in values]
        means += [sum(met) / len(met)] if met else []
    return means


@pytest.mark.parametrize(
    "absent", [(), (("c0", "s0"), ("c1", "s2")), (("c0", "s1"), ("c0", "s2"), ("c1", "s0"))]
)
def test_crossed_interval_is_the_bootstrap_over_contents_and_styles(absent):
    values = {pair: value for pair, value in grid(2, 3).items() if pair not in absent}
    found = crossed_interval(values, resamples=300, seed=4)
    rng = np.random.default_rng(4)
    drawn = []
    for names in (("c0", "c1"), ("s0", "s1", "s2")):
        counts = rng.multinomial(len(names), [1 / len(names)] * len(names), size=300)
        drawn.append(
            [[name for name, count in zip(names, row, strict=True) for _ in range(count)] for row in counts]
        )
    means = slow_means(values, *drawn)
    assert found.mean == pytest.approx(np.mean(list(values.values())))
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_crossed_interval_is_close_to_that_of_all_draws_there_are():
    values = grid(3, 3)
    draws = [itertools.product(names, repeat=3) for names in (("c0", "c1", "c2"), ("s0", "s1", "s2"))]
    means = slow_means(values, *zip(*itertools.product(*draws), strict=True))
    assert len(means) == 27 * 27
    found = crossed_interval(values, level=0.8)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [10, 90]), abs=0.01)


def test_crossed_interval_is_the_same_for_the_same_seed_and_in_any_order():
    values = grid()
    assert crossed_interval(values) == crossed_interval(values) != crossed_interval(values, seed=1)
    turned = crossed_interval(dict(reversed(values.items())))
    assert tuple(turned) == pytest.approx(tuple(crossed_interval(values)))


@pytest.mark.parametrize("effect", ["content_effect", "style_effect"])
def test_crossed_interval_knows_of_sharing(effect):
    """Sixteen pairs that differ by four contents (styles) only say little more than four of them."""
    values = grid(**{"content_effect": 0, "style_effect": 0, "noise": 0.01, effect: 0.3})
    naive, crossed = interval(list(values.values())), crossed_interval(values)
    assert crossed.high - crossed.low > 1.5 * (naive.high - naive.low)
    assert crossed.mean == naive.mean


def test_with_one_content_styles_alone_are_drawn():
    styles = np.random.default_rng(0).random(12)
    for values in (
        {("bear", f"s{i}"): x for i, x in enumerate(styles)},
        {(f"c{i}", "chalk"): x for i, x in enumerate(styles)},
    ):
        assert tuple(crossed_interval(values)) == pytest.approx(tuple(interval(styles)), abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape, effects", [((10, 10), (0.2, 0.1)), ((20, 8), (0.1, 0.2)), ((15, 15), (0.0, 0.0))]
)
def test_crossed_interval_covers_the_truth_about_as_often_as_it_says(shape, effects):
    """Where contents and styles matter, the interval over independent pairs covers it far less often."""
    grids = [grid(*shape, *effects, noise=0.1, seed=i) for i in range(400)]
    found = {
        "crossed": [crossed_interval(values, resamples=500, seed=i) for i, values in enumerate(grids)],
        "naive": [interval(list(values.values()), resamples=500, seed=i) for i, values in enumerate(grids)],
    }
    share = {name: np.mean([each.low <= 0.5 <= each.high for each in some]) for name, some in found.items()}
    if any(effects):
        assert 0.85 <= share["crossed"] <= 0.98  # percentile intervals of eight or ten run short of 95 %
        assert share["naive"] < 0.75
    else:  # noise alone: too wide, as the paper says
        assert share["crossed"] > 0.98


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
        lambda: crossed_interval({}),
        lambda: crossed_interval({("bear", "chalk"): 0.1, ("bear", "neon"): math.inf}),
    ],
)
def test_what_has_no_score_is_refused(call):
    with pytest.raises(ValueError):
        call()
