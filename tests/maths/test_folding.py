"""Strengths folded into copies of the weights: the same answers for the base model's arithmetic, nothing left."""

import copy

import pytest
import torch
from test_adapter import KINDS, SPEC, distance, inputs, installed, predict, tiny_unet, trained_layer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from b4m.maths.plp import BasisSpec, delta_weight

HALF_STEP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}  # of rounding to nearest, relative


@pytest.fixture(scope="module")
def base():
    return tiny_unet()


@pytest.fixture
def unet(base):
    return copy.deepcopy(base)


def frozen(unet) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in unet.state_dict().items() if "processor" not in name}


def answer(unet, **strengths) -> torch.Tensor:
    with torch.no_grad():
        return predict(unet, **strengths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["square", "all"])
def test_folded_answers_are_those_of_the_adapter(base, unet, kind, layers):
    adapter = installed(unet, BasisSpec(seed=3, rank=6, kind=kind), layers)
    ways = [
        {},
        {"content_strength": 0.5, "style_strength": -1.5},
        {"content_strength": (0.0, 1.0, 1.0, 0.5), "style_strength": (0.0, 0.0, 1.0, 2.0)},
    ]
    for strengths in ways:
        expected = answer(unet, **strengths)
        with adapter.folding():
            assert distance(answer(unet, **strengths), expected) < 1e-5
            assert distance(answer(unet, **strengths), expected) < 1e-5  # from the copies that are there
        assert distance(expected, predict(base)) > 1e-3


def test_a_folded_step_is_the_base_models_arithmetic(base, unet):
    adapter = installed(unet)

    def flops(model) -> int:
        with FlopCounterMode(display=False) as counter:
            answer(model)
        return counter.get_total_flops()

    with adapter.folding():
        answer(unet)
        assert flops(unet) == flops(base)
    assert flops(unet) > flops(base)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_base_models_own_weights_are_never_touched(unet, error):
    adapter = installed(unet)
    before, expected = frozen(unet), answer(unet)
    try:
        with adapter.folding():
            answer(unet, content_strength=3.0)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert all(torch.equal(value, before[name]) for name, value in frozen(unet).items())
    assert all(layer.folds is None for layer in adapter.layers.values())
    assert torch.equal(answer(unet), expected)


@pytest.mark.parametrize("dtype", HALF_STEP)
def test_a_fold_rounds_once(dtype):
    """Every number of W + dW within half a step of its dtype; of the answer, no more than that of every product."""
    layer, linear = trained_layer(24, 16, SPEC, scale=0.3), nn.Linear(16, 24).to(dtype).requires_grad_(False)
    exact = linear.weight.double() + delta_weight(
        *(f.double() for f in (layer.A, layer.B, layer.C, layer.D)), "exact"
    )
    layer.folds = {}
    x = torch.randn(2, 5, 16, dtype=dtype)
    with torch.no_grad():
        found = layer(x, onto=linear)
    ((folded, bias),) = layer.folds.values()
    assert folded.dtype == dtype and bias is linear.bias
    error = (folded.double() - exact).abs()
    assert error.max() > 0 and (error <= 1.001 * HALF_STEP[dtype] * exact.abs()).all()
    wanted = x.double() @ exact.T + linear.bias.double()
    products = x.double().abs() @ exact.abs().T + wanted.abs()  # rounded before they are added up, and after
    assert ((found.double() - wanted).abs() <= 1.1 * HALF_STEP[dtype] * products).all()


def test_gradients_are_asked_of_the_factors_themselves(unet):
    adapter = installed(unet)
    with adapter.folding():
        answer(unet)
        predict(unet).square().mean().backward()
    assert all(factor.grad.abs().max() > 0 for pair in adapter.pairs() for factor in pair)


def test_a_weight_that_is_not_plain_goes_on_as_without(unet):
    adapter = installed(unet)
    expected = answer(unet)

    class Quantized(nn.Linear):
        pass

    for name in adapter.layers:
        unet.get_submodule(name).__class__ = Quantized
    with adapter.folding():
        assert distance(answer(unet), expected) < 1e-5
        assert all({*layer.folds.values()} == {None} for layer in adapter.layers.values())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALF_STEP)
def test_folding_on_a_gpu(unet, dtype):
    unet.to("cuda", dtype)
    adapter = installed(unet)
    given = {
        name: {key: value.cuda().to(dtype) for key, value in one.items()}
        if isinstance(one, dict)
        else one.cuda()
        for name, one in inputs().items()
    }
    given |= {name: given[name].to(dtype) for name in ("sample", "encoder_hidden_states")}
    with torch.no_grad():
        expected = predict(unet, given)
        with adapter.folding():
            assert distance(predict(unet, given), expected) < 3e-2
    assert all(layer.folds is None for layer in adapter.layers.values())
