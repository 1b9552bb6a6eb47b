"""The encoders of the drawn world: what they learn from, that they share layers, go on, and are ordinary folders."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from world import dataset, encoders, prompt_encoder
from world.captions import facts, noisy_caption, spoken
from world.check_encoders import (
    EXCHANGED,
    check_namer,
    check_near_misses,
    check_prompt,
    draw,
    grid,
    plain_prompt,
)
from world.encoders import Namers, naming_loss, train_namers, write
from world.likeness import CHANGES, HIDES, any_scene, near_miss, targets
from world.members import CONTENTS, LABELS, SETS, labels
from world.prompt_encoder import blank_prompt_encoder, describes, rows_of_batch, train_prompt
from world.scenes import sample_scene
from world.styles import RARE
from world.vocabulary import MAX_TOKENS, tokenizer

from b4m.evaluation.extractors import load_extractor


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """One shard of eight pictures of the encoders' own set."""
    for module in (dataset, encoders, prompt_encoder):
        monkeypatch.setattr(module, "SHARD", 8)
    monkeypatch.setattr(encoders, "SETTLING", 2)
    return [dataset.draw_shard(tmp_path, 0, 0, any_scene)]


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


# --- what they learn from --------------------------------------------------------------------------


def test_every_name_is_of_one_thing_and_every_scene_has_one_that_is_known():
    for names in LABELS.values():
        assert len(set(names)) == len(names)
    members = sum(len(contents) for contents, _ in SETS.values()), sum(len(s) for _, s in SETS.values())
    assert members == (11, 15)
    seen = [labels(any_scene(0, index)) for index in range(300)]
    assert all(said[aspect] in LABELS[aspect] for said in seen for aspect in LABELS)
    special = [said["content"].endswith(" instance") for said in seen]
    assert 0.25 < np.mean(special) < 0.45


@pytest.mark.parametrize("family", RARE)
def test_no_noisy_caption_is_longer_than_what_is_read_of_it_though_rare_words_are_spelled(family):
    rng, words = np.random.default_rng(4), tokenizer()
    for _ in range(150):
        text = noisy_caption(sample_scene(rng, families=(family,), accessories=0.9, seconds=0.9), rng)
        assert len(words(text).input_ids) <= MAX_TOKENS, text


@pytest.mark.parametrize("change", CHANGES)
def test_a_near_miss_is_a_member_but_for_one_thing(change):
    rng = np.random.default_rng(0)
    for content in CONTENTS.values():
        for _ in range(20):
            other = near_miss(content, change, rng)
            differ = [f.name for f in fields(content) if getattr(content, f.name) != getattr(other, f.name)]
            assert differ == [change]
            assert other not in CONTENTS.values()


def test_no_member_is_drawn_where_its_colours_do_not_show():
    scenes = [any_scene(1, index) for index in range(600)]
    hidden = [scene for scene in scenes if scene.style.family in HIDES["colour"]]
    assert hidden and not any(labels(scene)["content"].endswith(" instance") for scene in hidden)
    assert set(targets(hidden, "colour")) == {-1}
    assert (targets(scenes, "content") >= 0).all()


def test_training_draws_no_scene_that_the_check_draws():
    trained = {any_scene(0, index) for index in range(1000)}
    assert len(trained) == 1000 and any_scene(0, 3) == any_scene(0, 3)
    assert not trained & {*grid(1, 1)}


def test_a_noisy_caption_is_true_of_its_own_scene_and_not_of_one_that_it_contradicts():
    rng = np.random.default_rng(0)
    for index in range(200):
        scene = any_scene(0, index)
        text, said = spoken(scene, np.random.default_rng(index))
        assert text == noisy_caption(scene, np.random.default_rng(index))
        assert said <= facts(scene)
        other = sample_scene(rng, contents=("bear" if scene.content.kind != "bear" else "dog",))
        if "thing" not in text:
            assert not said <= facts(other)


def test_captions_are_compared_by_what_they_say():
    red, blue = (
        frozenset({("kind", "bear"), ("colours", "red")}),
        frozenset({("kind", "bear"), ("colours", "blue")}),
    )
    bear = frozenset({("kind", "bear")})
    assert describes([red, bear], [red, blue]).tolist() == [[1, 0], [1, 1]]


def test_a_contrastive_batch_is_of_few_classes_and_families():
    cells = {(str(c), str(s)): [100 * c + s] * 5 for c in range(20) for s in range(14)}
    rows = rows_of_batch(cells, 128, np.random.default_rng(0))
    assert len(rows) == 128 and len(set(rows // 100)) == 6 and len(set(rows % 100)) == 5


# --- training --------------------------------------------------------------------------------------


def test_namers_share_their_first_stages_and_each_is_whole_by_itself():
    torch.manual_seed(0)
    namers = Namers().eval()
    namers.finish()
    content, style = namers.by_aspect["content"], namers.by_aspect["style"]
    for number, shared in enumerate((True, True, False, False)):
        both = (next(namer.resnet.encoder.stages[number].parameters()) for namer in (content, style))
        assert (next(both) is next(both)) is shared
    pictures = torch.rand(3, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        for aspect, cosine in namers(pictures).items():
            own = namers.by_aspect[aspect]
            features = own.resnet(pixel_values=pictures).pooler_output.flatten(1)
            logits = own(pixel_values=pictures).logits
            assert torch.allclose(
                logits, 16 * cosine * features.norm(dim=1, keepdim=True), rtol=1e-3, atol=1e-4
            )


def test_what_a_picture_does_not_show_is_not_asked_of_it():
    torch.manual_seed(0)
    cosine = torch.rand(4, 5)
    some = naming_loss({"colour": cosine}, {"colour": torch.tensor([1, -1, 3, -1])})
    assert torch.allclose(some, naming_loss({"colour": cosine[[0, 2]]}, {"colour": torch.tensor([1, 3])}))


def test_namers_that_were_stopped_end_in_the_same_bits_and_are_folders_that_scores_read(tmp_path, shards):
    straight = train_namers(tmp_path, shards, 0, steps=2, batch=4)
    assert same(straight, train_namers(tmp_path, shards, 0, steps=2, batch=4))  # done: only settled again
    write(straight.by_aspect["content"], tmp_path / "content")
    read = load_extractor(str(tmp_path / "content"))
    assert read.labels == LABELS["content"]
    norm = straight.by_aspect["style"].resnet.embedder.embedder.normalization
    assert norm.running_mean.any()


def test_a_prompt_encoder_that_was_stopped_ends_in_the_same_bits(tmp_path, shards):
    straight, words = train_prompt(tmp_path, shards, 0, steps=2, batch=4)
    again, _ = train_prompt(tmp_path, shards, 0, steps=2, batch=4)
    torch.manual_seed(4)
    blank = blank_prompt_encoder(words)
    assert same(straight, again) and not same(straight, blank)
    write(straight, tmp_path / "prompt")
    words.save_pretrained(tmp_path / "prompt")
    read = load_extractor(str(tmp_path / "prompt"))
    assert read.texts(["a bear in sketch style"]).shape == (1, 96)


# --- measuring -------------------------------------------------------------------------------------


def test_untrained_encoders_are_measured_and_not_good_at_it(tmp_path):
    torch.manual_seed(0)
    words = tokenizer()
    for aspect, namer in Namers().by_aspect.items():
        write(namer, tmp_path / aspect)
    write(blank_prompt_encoder(words), tmp_path / "prompt")
    words.save_pretrained(tmp_path / "prompt")

    few = {"bear", "dog", "bear instance", "car instance"}, {"photo", "sketch", "oil", "sketch instance"}
    scenes = [s for s in grid(1, 1) if labels(s)["content"] in few[0] and labels(s)["style"] in few[1]]
    pictures = draw(scenes)
    for aspect in LABELS:
        found = check_namer(tmp_path, aspect, scenes, pictures)
        assert found["pictures"] == len(scenes) == 16 and found["head_top1"] < 0.7
        assert ("head_top1_members" in found) is (aspect in ("content", "style"))
    missed = check_near_misses(tmp_path, 1)
    assert missed.keys() == set(CHANGES) and all(0 <= share <= 1 for share in missed.values())
    asked = check_prompt(tmp_path, scenes, pictures)
    assert asked["pictures"] == len(scenes) and asked["content_word_top1"] < 0.4


def test_a_prompt_with_another_word_is_the_same_prompt_but_for_it():
    scene = sample_scene(np.random.default_rng(0), contents=("bear",), families=("sketch",), grounds=("sky",))
    assert plain_prompt(scene) == "a bear in the sky in sketch style"
    said = {aspect: [plain_prompt(one) for one in exchange(scene)] for aspect, exchange in EXCHANGED.items()}
    assert [len(set(texts)) for texts in said.values()] == [26, 16, 8]
    assert all(plain_prompt(scene) in texts for texts in said.values())
    assert (
        "a fish in the sky in sketch style" in said["content"]
        and "a bear on grass in sketch style" in said["background"]
    )
