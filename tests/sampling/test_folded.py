"""Images are drawn with folded dials where that can be, and are those of the adapter beside the weights."""

import pytest
from test_generate import difference, draw

from b4m.backbones.registry import open_backbone
from b4m.maths.projection import PLPLinear
from b4m.sampling.attach import attach

WAYS = {  # what is asked of `sample` -> copies of the weights
    "adapted": ({"guidance": 4.0, "style_strength": 0.7}, 1),
    "base": ({"guidance": 4.0, "negative": "base"}, 1),
    "predictions": ({"guidance": 4.0, "negative": "base", "compose": "predictions"}, 2),
}


@pytest.fixture
def pair(tiny_base, trained):
    backbone = open_backbone(tiny_base)
    attach(backbone, trained["content_file"], trained["style_file"])
    return backbone


@pytest.fixture
def copies(monkeypatch) -> list[int]:
    """How many folds each layer has, as they are made."""
    made, fold = [], PLPLinear._fold

    def spy(self, *given):
        made.append(len(self.folds) + 1)
        return fold(self, *given)

    monkeypatch.setattr(PLPLinear, "_fold", spy)
    return made


@pytest.mark.parametrize("way", WAYS)
def test_a_run_folds_once_and_draws_the_same(pair, copies, monkeypatch, way):
    options, wanted = WAYS[way]
    folded = draw(pair, seeds=(1, 2), **options)
    layers = len(pair.attached.adapter.layers)
    assert sorted(copies) == sorted([*range(1, wanted + 1)] * layers), "once for a run, not for a step"
    monkeypatch.setattr("b4m.methods.factors.free_bytes", lambda device: 1000)
    assert difference(draw(pair, seeds=(1, 2), **options), folded) <= 1
    assert len(copies) == wanted * layers, "no copies where memory is short"


def test_a_run_that_is_stopped_leaves_the_model_as_it_was(pair):
    before = draw(pair)

    def stop(*given):
        raise KeyboardInterrupt

    handle = pair.denoiser.mid_block.register_forward_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        draw(pair, content_strength=2.0)
    handle.remove()
    assert all(layer.folds is None for layer in pair.attached.adapter.layers.values())
    assert difference(draw(pair), before) == 0
