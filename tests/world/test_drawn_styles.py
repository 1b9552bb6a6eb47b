"""The styles of the drawn world: every family is itself, and every parameter can be seen."""

from dataclasses import replace

import numpy as np
import pytest
from world import style_sets
from world.fields import Fields
from world.styles import FAMILIES, RARE, WORDS, family, member, paint, ranges, sample_style
from world.styles.parameters import Choice, Number

N = 128
EVERY = (*FAMILIES, *RARE)


def scene(seed: int = 5) -> Fields:
    """Two round parts, one with a spot, before a wall and a table."""
    t = ((np.arange(N, dtype=np.float32) + 0.5) * (2 / N) - 1).astype(np.float32)
    x, y = np.meshgrid(t, t)
    body, head = np.hypot(x, y - 0.25) - 0.45, np.hypot(x, y + 0.42) - 0.28
    spot = np.hypot(x - 0.1, y - 0.2) - 0.15
    dist = np.minimum(body, head)
    edge = np.where(head < 0, -head, np.minimum(np.abs(body), np.minimum(np.abs(head), np.abs(spot))))
    label = np.where(head < 0, 2, np.where(body < 0, 1, 0)).astype(np.int8)
    albedo = np.empty((3, N, N), np.float32)
    albedo[:] = np.array([0.85, 0.30, 0.15], np.float32).reshape(3, 1, 1)
    albedo[:, head < 0] = np.array([[0.95], [0.75], [0.20]], np.float32)
    albedo[:, spot < 0] = np.array([[0.20], [0.35], [0.85]], np.float32)
    ground = np.empty_like(albedo)
    ground[:] = np.array([0.55, 0.75, 0.80], np.float32).reshape(3, 1, 1)
    ground[:, y > 0.4] = np.array([[0.60], [0.45], [0.30]], np.float32)
    light = np.clip(0.6 - 0.5 * x - 0.5 * y, 0, 1)
    return Fields(
        x,
        y,
        dist,
        edge,
        label,
        albedo,
        light,
        ground,
        np.abs(y - 0.4),
        (y > 0.4).astype(np.int8),
        (0.0, 0.0, 0.9),
        0.7,
        seed,
    )


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Root mean square difference of two images, of 255 levels."""
    return float(np.sqrt(((a - b) ** 2).mean()) * 255)


def test_there_are_sixteen_families_and_four_that_the_base_never_sees():
    assert len(FAMILIES) == 16 and "photo" in FAMILIES
    assert set(RARE) == {"glass", "chalk", "comic", "stitch"}
    assert not set(FAMILIES) & set(RARE)


@pytest.mark.parametrize("name", EVERY)
def test_a_style_is_a_picture_and_the_same_every_time(name):
    style = sample_style(np.random.default_rng(3), name)
    assert style == sample_style(np.random.default_rng(3), name)
    assert style != sample_style(np.random.default_rng(4), name)
    hash(style)
    first = paint(scene(), style)
    assert first.shape == (3, N, N) and first.dtype == np.float32
    assert np.isfinite(first).all() and first.min() >= 0 and first.max() <= 1
    assert np.array_equal(first, paint(scene(), style))


@pytest.mark.parametrize("name", EVERY)
def test_every_parameter_can_be_seen(name):
    """Moved from one end of its range to the other, the others in the middle."""
    for key, over in ranges(family(name).parameters).items():
        low, high = (paint(scene(), member(name, **{key: end})) for end in over.ends())
        assert apart(low, high) > 2.5, f"{name}: {key} makes a difference of {apart(low, high):.1f} levels"


def test_families_differ_more_than_the_noise_in_them():
    f = scene()
    middle = {name: paint(f, member(name)) for name in EVERY}
    for i, a in enumerate(EVERY):
        for b in EVERY[i + 1 :]:
            assert apart(middle[a], middle[b]) > 15, (a, b)


def test_members_of_a_family_differ():
    f = scene()
    for name in EVERY:
        drawn = [paint(f, sample_style(np.random.default_rng(i), name)) for i in range(6)]
        distances = [apart(a, b) for i, a in enumerate(drawn) for b in drawn[i + 1 :]]
        assert np.median(distances) > 8, (name, np.median(distances))


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "blueprint"])
def test_colours_stay_recognisable(name):
    """Red and blue are told apart by their hue on the object and on the ground, whatever the member."""
    f = scene()
    red = np.array([0.85, 0.25, 0.20], np.float32).reshape(3, 1, 1)
    blue = np.array([0.20, 0.35, 0.85], np.float32).reshape(3, 1, 1)
    for seed in range(5):
        style = sample_style(np.random.default_rng(seed), name)
        for where, inside in (("albedo", f.dist < -0.03), ("ground", f.dist > 0.12)):
            a, b = (
                paint(replace(f, **{where: np.broadcast_to(c, f.albedo.shape)}), style) for c in (red, blue)
            )
            shift = (a - b)[:, inside].mean(1)
            assert shift[0] > 0.05 and shift[2] < -0.05, (where, style)


def test_the_grain_of_a_picture_follows_the_seed_where_it_is_by_chance():
    style = member("oil")
    assert not np.array_equal(paint(scene(1), style), paint(scene(2), style))


def test_words_name_what_is_there_and_are_known():
    known = set(WORDS)
    assert all(word == word.lower() and word.isalpha() for word in known) and list(WORDS) == sorted(known)
    for name in EVERY:
        assert name in known
        said = {phrase for i in range(60) for phrase in sample_style(np.random.default_rng(i), name).words}
        assert said, name
        assert all(1 <= len(phrase.split()) <= 2 and set(phrase.split()) <= known for phrase in said)
    assert "blue ink" in member("sketch", ink=(0.14, 0.2, 0.6)).words
    assert "cream paper" in member("sketch", paper=(0.95, 0.9, 0.75)).words
    assert "small" in member("mosaic", tile=7.1).words and "large" in member("mosaic", tile=11.4).words


def test_the_sets_are_apart_within_range_and_hardly_ever_drawn():
    sets = (style_sets.TUNING, style_sets.CONFIRMATION, style_sets.RARE)
    assert len(style_sets.ALL) == sum(map(len, sets))
    tuning, confirmation, rare = ({one.style.family for one in chosen.values()} for chosen in sets)
    assert len(style_sets.TUNING) >= 4 and len(style_sets.CONFIRMATION) >= 6
    assert not tuning & confirmation and tuning | confirmation < set(FAMILIES) and rare == set(RARE)
    for name, one in style_sets.ALL.items():
        assert name == one.name and one.word in WORDS
        for key, over in ranges(family(one.style.family).parameters).items():
            value = getattr(one.style.parameters, key)
            if isinstance(over, Number):
                assert over.low <= value <= over.high, (name, key)
            elif isinstance(over, Choice):
                assert value in over.kinds, (name, key)
            else:
                nearest = min(np.abs(np.subtract(value, colour)).max() for _, colour in over.names)
                assert nearest <= over.jitter, (name, key, nearest)
