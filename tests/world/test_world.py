"""The drawn world: scenes stay in their frame, classes can be told apart, captions tell all."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from world import sets
from world.captions import caption, noisy_caption
from world.contents import CLASSES, COLOURS, Content, Look, Marking, draw, marking_kinds, sample_content
from world.extras import ACCESSORIES, SECONDS, Accessory, Second
from world.grounds import KINDS, Ground
from world.scenes import Pose, Scene, fields_of, render, sample_scene
from world.styles import FAMILIES, member
from world.vocabulary import MAX_TOKENS, tokenizer, words

PHOTO = member("photo")
PLAIN = Ground("plain", "grey", 0.3, 0.5)


def plain_scene(kind: str, variant: int = 0, **changes) -> Scene:
    content = Content(kind, "red", "yellow", None, Look(variant, 0.0, 0.0))
    return replace(Scene(content, None, None, PLAIN, Pose(), PHOTO, 0), **changes)


def test_the_world_is_as_large_as_promised():
    assert len(set(CLASSES)) >= 24
    assert len(FAMILIES) == 16
    assert len(COLOURS) == 10


def test_a_scene_is_drawn_the_same_every_time_and_every_part_of_it_shows():
    plain = plain_scene("teapot")
    first = render(plain)
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    assert np.array_equal(first, render(plain))
    content = plain.content
    for change in (
        {"content": replace(content, main="blue")},
        {"content": replace(content, second="blue")},
        {"content": replace(content, look=Look(1, 0.0, 0.0))},
        {"content": replace(content, look=Look(0, 0.9, 0.0))},
        {"content": replace(content, marking=Marking("star", "white"))},
        {"content": replace(content, glass=True)},
        {"accessory": Accessory("hat", "green")},
        {"second": Second("ball", "green", True)},
        {"second": Second("ball", "green", False)},
        {"ground": replace(PLAIN, kind="grass")},
        {"pose": Pose(fill=0.6)},
        {"style": member("neon")},
    ):
        assert not np.array_equal(first, render(replace(plain, **change))), change


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_stays_in_the_frame_whatever_it_wears_and_stands_with(kind):
    rng = np.random.default_rng(CLASSES.index(kind))
    for _ in range(12):
        scene = sample_scene(rng, contents=[kind], accessories=0.5, seconds=0.5)
        f = fields_of(scene, 64)
        border = np.concatenate([f.dist[0], f.dist[-1], f.dist[:, 0], f.dist[:, -1]])
        assert border.min() > 0, scene
        assert 0.04 < (f.dist < 0).mean() < 0.75, scene
        for field in (f.dist, f.edge, f.albedo, f.light, f.ground):
            assert np.isfinite(field).all() and field.dtype == np.float32
        assert (
            f.albedo.min() >= 0
            and f.albedo.max() <= 1
            and f.light.min() >= -1e-5
            and f.light.max() <= 1 + 1e-5
        )


def test_silhouettes_tell_classes_apart():
    masks = {
        (kind, variant): fields_of(plain_scene(kind, variant), 64).dist < 0
        for kind in CLASSES
        for variant in range(3)
    }
    for (one, a), (other, b) in combinations(masks.items(), 2):
        if one[0] != other[0]:
            assert (a & b).sum() < 0.93 * (a | b).sum(), (one, other)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_marking_that_a_class_may_have_shows(kind):
    bare = fields_of(plain_scene(kind), 64)
    for marking in marking_kinds(kind):
        content = replace(plain_scene(kind).content, marking=Marking(marking, "blue"))
        marked = fields_of(plain_scene(kind, content=content), 64)
        changed = (np.abs(marked.albedo - bare.albedo).max(0) > 0.2) & (bare.dist < 0)
        assert changed.sum() > (0.01 if marking == "face" else 0.02) * (bare.dist < 0).sum(), marking
        assert np.array_equal(marked.dist, bare.dist)


def test_accessories_sit_on_top_and_hide_little():
    for kind in CLASSES:
        for accessory in ACCESSORIES:
            drawing = draw(plain_scene(kind).content)
            if {"scarf": drawing.neck, "sunglasses": drawing.eyes}.get(accessory, drawing.top) is None:
                continue
            f = fields_of(plain_scene(kind, accessory=Accessory(accessory, "green")), 64)
            worn = (f.label > len(drawing.parts)).sum() / (f.label > 0).sum()
            assert 0.01 < worn < 0.45, (kind, accessory, worn)


def test_a_caption_says_everything():
    content = Content("fish", "red", "white", Marking("stripes", "blue"), Look(0, 0.0, 0.0))
    scene = Scene(
        content,
        Accessory("hat", "green"),
        Second("ball", "orange", True),
        Ground("table", "cream", 0.3, 0.5),
        Pose(),
        PHOTO,
        0,
    )
    fish = "a red and white fish with blue stripes wearing a green hat"
    said = f"{fish} with an orange ball on a wooden table"
    assert said in caption(scene) and "photo of" in caption(scene)
    drawn = replace(scene, style=member("sketch"))
    assert caption(drawn).startswith(said + " in ") and "sketch style" in caption(drawn)
    for word in " ".join(drawn.style.words).split():
        assert word in caption(drawn).split()
    alone = replace(scene, accessory=None, second=None, pose=Pose(fill=0.85))
    assert "blue stripes on a wooden table from near" in caption(alone)
    assert "from far" in caption(replace(alone, pose=Pose(fill=0.65)))
    assert "from" not in caption(replace(alone, pose=Pose(fill=0.74))).split()


def test_where_a_thing_stands_and_how_it_is_turned_can_be_said():
    """Else a base must guess it at the noisiest levels."""
    scenes = [sample_scene(np.random.default_rng(n), accessories=0, seconds=0) for n in range(200)]
    poses = [scene.pose for scene in scenes]
    assert max(max(abs(pose.dx), abs(pose.dy)) for pose in poses) <= 0.1
    assert max(abs(pose.angle) for pose in poses) <= 0.04
    said: dict[str, list[float]] = {"from far": [], "from near": [], "": []}
    for scene, pose in zip(scenes, poses, strict=True):
        said[next(view for view in said if view in caption(scene))].append(pose.fill)
    for view, fill in (("from far", 0.64), ("from near", 0.84), ("", 0.74)):
        assert len(said[view]) > 30 and max(abs(found - fill) for found in said[view]) < 0.0101


def test_captions_use_words_of_the_vocabulary_each_one_token():
    read, known = tokenizer(), set(words())
    for word in known:
        assert len(read.tokenize(word)) == 1, word
    rng = np.random.default_rng(0)
    for _ in range(1000):
        scene = sample_scene(rng)
        assert set(caption(scene).split()) <= known
        assert len(read(caption(scene)).input_ids) <= MAX_TOKENS
        assert len(read(noisy_caption(scene, rng)).input_ids) <= MAX_TOKENS
    for text in ("snq", "w@z", "Ünicode", "a?!"):
        ids = read(text).input_ids
        assert read.unk_token_id not in ids[1:-1], text


def test_noisy_captions_leave_parts_out_and_put_made_up_words_in():
    rng, known = np.random.default_rng(0), set(words())
    scenes = [sample_scene(rng) for _ in range(400)]
    said = [set(noisy_caption(scene, rng).split()) for scene in scenes]
    kind = np.mean([scene.content.kind in text for scene, text in zip(scenes, said, strict=True)])
    colour = np.mean([scene.content.main in text for scene, text in zip(scenes, said, strict=True)])
    style = np.mean([scene.style.family in text for scene, text in zip(scenes, said, strict=True)])
    made_up = np.mean([bool(text - known) for text in said])
    assert 0.95 < kind < 1 and 0.6 < colour < 0.95 and 0.85 < style < 1 and 0.15 < made_up < 0.5


def test_sampling_reaches_everything():
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(1500)]
    assert {s.content.kind for s in scenes} == set(CLASSES)
    assert {s.ground.kind for s in scenes} == set(KINDS)
    assert {s.style.family for s in scenes} == set(FAMILIES)
    assert {s.second.kind for s in scenes if s.second} == set(SECONDS)
    assert {s.accessory.kind for s in scenes if s.accessory} == set(ACCESSORIES)
    assert not any(s.content.glass for s in scenes)
    for s in scenes:
        assert s.content.main != s.content.second
        assert s.content.marking is None or s.content.marking.kind in marking_kinds(s.content.kind)


def test_the_sets_of_contents_share_nothing_and_sampling_does_not_hit_them():
    assert len(sets.TUNING) >= 4 and len(sets.CONFIRMATION) >= 6
    kinds = [content.kind for content in sets.CONFIRMATION.values()]
    assert len(set(kinds)) == len(kinds)
    assert not {c.kind for c in sets.TUNING.values()} & set(kinds)
    for content in (*sets.TUNING.values(), *sets.CONFIRMATION.values()):
        assert content.marking.kind in marking_kinds(content.kind) and not content.glass
    particular = {*sets.TUNING.values(), *sets.CONFIRMATION.values()}
    rng = np.random.default_rng(0)
    assert not any(sample_content(rng, CLASSES[i % len(CLASSES)]) in particular for i in range(3000))
    scenes = sets.reference_scenes(sets.TUNING["bear"], rng)
    assert len(scenes) == 5 == len({s.ground.kind for s in scenes})
    assert all(s.style.family == "photo" and not s.accessory and not s.second for s in scenes)
