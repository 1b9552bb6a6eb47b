"""Noise states: the base model's own, or references under noise, and predictions at them."""

import pytest
import torch
from conftest import SIZE
from test_generate import PROMPT

from b4m.backbones.registry import open_backbone
from b4m.data.images import load_folder
from b4m.sampling.attach import attach
from b4m.sampling.states import STEPS, drawn, noised, predict


@pytest.fixture
def base(tiny_base):
    return open_backbone(tiny_base)


def test_states_are_those_of_the_base_models_own_images(base):
    seen = []
    step = base.denoiser.register_forward_hook(lambda _, given, answer: seen.append((*given, answer[0])))
    found = drawn(base, [PROMPT, "a bear"], [1, 2], 5)
    step.remove()
    assert len(seen) == STEPS and len(found) == 5
    assert [states.timestep for states in found] == [float(seen[i][1]) for i in (2, 7, 12, 17, 22)]
    for states, (noisy, _, answer) in zip(found, (seen[i] for i in (2, 7, 12, 17, 22)), strict=True):
        assert torch.equal(states.noisy, noisy) and noisy.shape == (2, 4, SIZE // 2, SIZE // 2)
        assert torch.equal(predict(base, states, 0, 0), answer)  # under the pipeline's own conditions


def test_references_are_noised_evenly_over_the_timesteps(base, folders):
    images = load_folder(folders["content"], SIZE)
    found = noised(base, images, [PROMPT] * len(images), 4)
    assert [states.timestep for states in found] == [125, 375, 625, 875]
    clean = torch.cat([base.encode_images(image.pixels[None]) for image in images])
    apart = [float((states.noisy - clean).norm()) for states in found]
    assert apart == sorted(apart) and found[0].noisy.shape == clean.shape
    again = noised(base, images, [PROMPT] * len(images), 4)
    assert all(torch.equal(one.noisy, two.noisy) for one, two in zip(found, again, strict=True))


def test_dials_at_zero_predict_as_the_base_does(base, tiny_base, trained):
    states = drawn(base, [PROMPT], [1], 1)[0]
    before = predict(base, states, 0, 0)
    attach(base, trained["content_file"], trained["style_file"])
    assert torch.allclose(predict(base, states, 0, 0), before, atol=1e-5)
    assert not torch.allclose(predict(base, states, 1, 1), before, atol=1e-3)
    with pytest.raises(ValueError, match="take off"):
        drawn(base, [PROMPT], [1], 1)
