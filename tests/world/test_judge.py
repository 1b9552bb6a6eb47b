"""The judges of the drawn world: their labels, their agreement, and a file that comes back the same."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from world import dataset, judge
from world.dataset import scene
from world.scenes import sample_scene


def test_every_scene_has_a_name_that_the_judges_know():
    for index in range(200):
        said = judge.labels(scene(0, index))
        assert said.keys() == judge.NAMES.keys()
        assert all(said[aspect] in names for aspect, names in judge.NAMES.items())


def test_targets_are_the_numbers_of_the_names():
    scenes = [sample_scene(np.random.default_rng(n)) for n in range(5)]
    numbers = judge.targets_of(scenes)
    for aspect, names in judge.NAMES.items():
        assert [names[i] for i in numbers[aspect]] == [judge.labels(each)[aspect] for each in scenes]


def test_agreement_is_a_share_of_those_that_were_asked():
    said = {"class": ["bear", "car"], "ground": ["sky", "sky"]}
    asked = [{"class": "bear", "ground": "sky"}, {"class": "bear"}]
    assert judge.agreement(said, asked) == {"class": 0.5, "ground": 1.0}


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_a_file_names_the_same_as_the_judge_that_it_was_saved_from(tmp_path, kind):
    torch.manual_seed(0)
    whole = judge.Judge(kind).half().float().eval()  # a file holds half precision
    save_file(
        {k: v.half().contiguous() for k, v in whole.state_dict().items()}, tmp_path / f"{kind}.safetensors"
    )
    pictures = torch.rand(3, 3, 128, 128) * 2 - 1
    assert judge.load_judge(tmp_path / f"{kind}.safetensors").name(pictures) == whole.name(pictures)


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_augmented_pictures_keep_their_shape_and_come_out_the_same_again(kind):
    pictures = torch.rand(4, 3, 128, 128) * 2 - 1
    one, other = (judge.AUGMENT[kind](pictures, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == pictures.shape and torch.equal(one, other) and not torch.equal(one, pictures)


@pytest.mark.parametrize("kind", ["resnet", "convnext"])
def test_a_judge_that_is_trained_is_not_trained_again(tmp_path, monkeypatch, kind):
    for module in (dataset, judge):
        monkeypatch.setattr(module, "SHARD", 8)
    monkeypatch.setattr(judge, "SETTLING", 2)
    shards = [dataset.draw_shard(tmp_path, 0, 0)]
    first, again = (judge.train(kind, tmp_path, shards, 0, steps=2, batch=4).state_dict() for _ in range(2))
    blank = judge.Judge(kind).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["heads.class.weight"], blank["heads.class.weight"])
    if kind == "resnet":
        norm = "trunk.embedder.embedder.normalization.running_mean"
        assert not torch.equal(first[norm], blank[norm])
