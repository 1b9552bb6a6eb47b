"""A frozen model in 8 bits: half its memory, nearly its results, and the adapter's gradients as before."""

import sys

import pytest
import torch
from torch import nn

from b4m.backbones.footprint import _held
from b4m.backbones.frozen import quantize
from b4m.backbones.registry import open_backbone
from b4m.core.errors import UserError
from b4m.files.concept import load_concept
from b4m.maths.plp import BasisSpec
from b4m.maths.projection import PLPLinear
from b4m.training.loop import train


def blocks(unet) -> list[nn.Linear]:
    found = (module for name, module in unet.named_modules() if "transformer_blocks" in name)
    return [module for module in found if type(module) is nn.Linear]


def test_the_linear_layers_take_half_the_memory_of_bf16_and_nothing_else_changes(tiny_base):
    pytest.importorskip("torchao")
    unet = open_backbone(tiny_base, mixed_precision="bf16").denoiser
    plain = {name: p.detach().clone() for name, p in unet.named_parameters()}
    before = sum(_held(layer.weight) for layer in blocks(unet))
    quantize(unet)
    weights = {name for name, module in unet.named_modules() if module in blocks(unet)}
    after = sum(_held(layer.weight) for layer in blocks(unet))
    assert before / 2 < after <= before / 2 + 8 * sum(layer.out_features for layer in blocks(unet))  # scales
    for name, parameter in unet.named_parameters():
        assert not parameter.requires_grad and parameter.shape == plain[name].shape
        if name.removesuffix(".weight") not in weights:
            assert torch.equal(parameter, plain[name]), name


def test_adapter_and_input_get_the_gradients_of_the_weights_that_are_held():
    torchao = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    whole, layer = nn.Linear(64, 96, dtype=torch.bfloat16), PLPLinear(96, 64, BasisSpec(rank=8), "x")
    nn.init.normal_(layer.B, std=0.1)
    held = nn.Linear(64, 96, dtype=torch.bfloat16)
    held.load_state_dict(whole.state_dict())
    torchao.quantize_(held, torchao.Int8WeightOnlyConfig())
    results = []
    for onto in (whole, held):
        onto.requires_grad_(False)
        x = torch.linspace(-1, 1, 3 * 5 * 64).view(3, 5, 64).bfloat16().requires_grad_()
        y = layer(x, content_samples=1, onto=onto)
        grads = torch.autograd.grad(y.float().pow(2).mean(), (x, layer.B, layer.D))
        results.append([y, *grads])
    for found, expected in zip(*results, strict=True):
        assert 0 < (found - expected).norm() / expected.norm() < 0.05  # 8 bits are felt, a little


def test_a_run_in_8_bits_learns_nearly_the_same_and_its_file_fits_the_whole_model(settings, tmp_path):
    pytest.importorskip("torchao")
    whole = train(settings("content", tmp_path / "whole"))
    small = train(settings("content", tmp_path / "small", quantize="int8"))
    assert small.losses != whole.losses and small.losses == pytest.approx(whole.losses, rel=0.02)
    assert load_concept(small.path).unet_hash == load_concept(whole.path).unet_hash


def test_without_torchao_one_line_says_what_to_install(settings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(UserError, match="--quantize int8 needs the package torchao: pip install"):
        train(settings("content", tmp_path, quantize="int8"))
    assert not list(tmp_path.rglob("*.safetensors"))
