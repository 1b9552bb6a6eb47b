"""What a content reads is measured on the base model's own drawings of plain prompts."""

from collections import Counter

import torch
from conftest import tiny_pipeline

from b4m.backbones.sdxl import SDXL
from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec
from b4m.methods import factors
from b4m.methods.directions import COLOURS, MANNERS, PLACES, THINGS, measure, prompts

SPEC = BasisSpec(rank=4, inputs="principal")


def test_prompts_are_of_all_kinds_and_no_two_alike():
    asked = prompts()  # the real ones: conftest.py patches the module, not what was imported before
    assert len(set(asked)) == len(asked) == 2 * len(THINGS) == 32
    for words in (THINGS, COLOURS, PLACES, [manner for manner in MANNERS if manner]):
        named = Counter(word for prompt in asked for word in words if f" {word}" in prompt)
        assert named.keys() == set(words), words


def test_it_is_the_same_whatever_the_random_state_and_leaves_the_base_as_it_was():
    found = []
    for seed in (1, 2):
        backbone = SDXL(tiny_pipeline())
        before = {name: part.clone() for name, part in backbone.denoiser.state_dict().items()}
        adapter = Adapter.install(backbone.denoiser, SPEC, "all")
        torch.manual_seed(seed)
        measure(adapter, backbone, 32)
        found.append(adapter.inputs)
        after = backbone.denoiser.state_dict()
        assert all(torch.equal(part, after[name]) for name, part in before.items())
    assert all(rows.any() for rows in found[0].values())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_where_nothing_is_frozen_nothing_is_measured(settings, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(factors, "measure", lambda adapter, *rest: asked.append(adapter.spec.ratio))
    for ratio in (0.0, 0.5):
        factors.adapter_of(
            SDXL(tiny_pipeline()), settings("content", tmp_path, ratio=ratio, inputs="principal", rank=4)
        )
    assert asked == [0.5]
