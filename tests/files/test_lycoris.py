"""DoRA, LoHa and LoKr: dW is what lycoris and peft themselves apply; without the library they are refused by name."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, refused
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from b4m.backbones.registry import open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.files.contents import read_contents
from b4m.files.export import export
from b4m.files.lycoris import change, missing, size_of
from b4m.files.opening import open_any
from b4m.files.settings import ExportConfig
from b4m.sampling.attach import attach, detach
from b4m.sampling.sample import sample

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
CASES = [
    ("LohaModule", {}),
    ("LohaModule", {"use_tucker": True}),
    ("LokrModule", {"factor": 4, "lora_dim": 1}),
    ("LokrModule", {"factor": 2, "lora_dim": 1, "decompose_both": True}),
    ("LokrModule", {"factor": 4, "full_matrix": True}),
    ("LokrModule", {"factor": 2, "lora_dim": 1, "use_tucker": True}),
    ("LoConModule", {}),
    ("LoConModule", {"use_tucker": True}),
]


def lycoris_file(layer: str, module: nn.Module, kind: str, settings: dict) -> tuple[dict, nn.Module]:
    """Tensors as the library writes them for kohya, and its own module, which applies them."""
    modules = pytest.importorskip("lycoris.modules")
    torch.manual_seed(0)
    made = getattr(modules, kind)("x", module, 1.0, **{"lora_dim": 3, "alpha": 2, **settings}).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(
                torch.rand_like(parameter) + 0.5 if name == "dora_scale" else torch.randn_like(parameter) / 4
            )
    made.org_forward = module.forward
    start = "lora_unet_" + layer.replace(".", "_")
    return {f"{start}.{end}": tensor.detach() for end, tensor in made.custom_state_dict().items()}, made


@pytest.mark.parametrize(
    "decompose", [{}, {"weight_decompose": True}, {"weight_decompose": True, "wd_on_out": False}]
)
@pytest.mark.parametrize(("kind", "settings"), CASES)
@pytest.mark.parametrize("layer", [LAYER, CONV])
def test_a_change_is_the_one_that_lycoris_applies(layer, kind, settings, decompose):
    module = nn.Linear(24, 16) if layer == LAYER else nn.Conv2d(8, 16, 3, stride=2, padding=1)
    tensors, theirs = lycoris_file(layer, module, kind, {**settings, **decompose})
    found = read_contents("x", tensors, {})
    assert found.sizes == {layer: (16, module.weight[0].numel())}
    if found.layers:  # a plain LoRA, which needs no library
        up, down = found.layers[layer]
        dW = (up @ down.flatten(1)).view_as(module.weight)
    else:
        dW = change("x", *found.others[layer], module.weight)
    x = torch.randn(2, *([24] if layer == LAYER else [8, 6, 6]))
    with torch.no_grad():
        wanted = theirs(x) - module(x)
        assert torch.allclose(theirs.op(x, dW, None, **theirs.kw_dict), wanted, atol=1e-5)
        assert wanted.abs().max() > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=3, lora_alpha=2, use_dora=True, init_lora_weights=False),
        LoraConfig(r=3, lora_alpha=2, use_dora=True, use_rslora=True, init_lora_weights=False),
        LoHaConfig(r=3, alpha=2, init_weights=False),
        LoKrConfig(r=1, alpha=2, init_weights=False),
        LoKrConfig(r=8, alpha=2, init_weights=False, decompose_factor=2),
    ],
)
@pytest.mark.parametrize("name", ["to_q", "conv1"])
def test_a_change_is_the_one_that_peft_applies(config, name, tmp_path):
    pytest.importorskip("lycoris.functional")
    torch.manual_seed(0)
    layer = LAYER if name == "to_q" else CONV
    root, parent = nn.Module(), None
    for part in layer.split(".")[:-1]:
        parent = parent or root
        parent.add_module(part, nn.Module())
        parent = parent.get_submodule(part)
    parent.add_module(name, nn.Linear(24, 16) if name == "to_q" else nn.Conv2d(8, 16, 3, padding=1))
    weight = parent.get_submodule(name).weight.detach().clone()
    config.target_modules = [name]
    model = get_peft_model(root, config)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "magnitude" in key:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    model.save_pretrained(tmp_path)
    contents = open_any(tmp_path).contents
    found = change("x", *contents.others[layer], weight)
    merged = model.merge_and_unload().get_submodule(layer).weight.detach() - weight
    assert contents.sizes == {layer: (16, weight[0].numel())}
    assert torch.allclose(found, merged, atol=1e-5) and merged.abs().max() > 1e-3


def test_it_is_drawn_as_its_merged_weights_are(tiny_base, tmp_path):
    backbone = open_backbone(tiny_base)
    bare = draw(backbone)
    tensors = {}
    for layer, kind, settings in (
        (LAYER, "LohaModule", {"weight_decompose": True}),
        (CONV, "LokrModule", {"factor": 4}),
        (LAYER.replace("to_q", "to_k"), "LoConModule", {}),
    ):
        tensors |= lycoris_file(layer, backbone.denoiser.get_submodule(layer), kind, settings)[0]
    save_file(tensors, tmp_path / "x.safetensors")
    for strength in (1.0, 0.5):
        dials = {"content_strength": strength, "style_strength": strength}
        given = {"base_model": tiny_base, "lora_file": str(tmp_path / "x.safetensors"), **dials}
        config = ExportConfig(output=str(tmp_path / f"{strength}"), merge=True, dtype="fp32", **given)
        merged = load_file(Path(export(config)) / "diffusion_pytorch_model.safetensors")
        attach(backbone, lora_file=str(tmp_path / "x.safetensors"))
        ours = draw(backbone, **dials)
        detach(backbone)
        assert np.abs(draw(backbone) - bare).max() == 0
        before = {name: tensor.clone() for name, tensor in backbone.denoiser.state_dict().items()}
        backbone.denoiser.load_state_dict(merged)
        assert np.abs(draw(backbone) - ours).max() <= 1 and np.abs(ours - bare).max() > 4
        backbone.denoiser.load_state_dict(before)


def draw(backbone, **dials) -> np.ndarray:
    return np.asarray(sample(backbone, ["bear"], [7], steps=2, size=SIZE, **dials)[0], dtype=int)


# without the library


@pytest.fixture
def loha(tmp_path) -> str:
    start = f"lora_unet_{LAYER.replace('.', '_')}"
    parts = {"w1_a": (64, 4), "w1_b": (4, 64), "w2_a": (64, 4), "w2_b": (4, 64)}
    path = tmp_path / "x.safetensors"
    save_file({f"{start}.hada_{part}": torch.ones(shape) for part, shape in parts.items()}, path)
    return str(path)


def test_without_the_library_it_is_refused_by_name_before_anything_is_loaded(
    loha, tiny_base, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "lycoris.functional.general", None)
    monkeypatch.setattr(SDXL, "load_denoiser", None)
    config = ExportConfig(output=str(tmp_path / "unet"), merge=True, base_model=tiny_base, lora_file=loha)
    for action in (lambda: export(config), lambda: attach(open_backbone(tiny_base), lora_file=loha)):
        refused(action, loha, "a LoHa", "b4m[lycoris]")
    assert not (tmp_path / "unet").exists()


def test_it_is_never_written_as_a_plain_lora(loha, tiny_base, tmp_path):
    config = ExportConfig(output=str(tmp_path / "out.safetensors"), base_model=tiny_base, lora_file=loha)
    refused(lambda: export(config), loha, "a LoHa", "--merge")


def test_on_another_base_model_it_is_refused(loha, tmp_path, monkeypatch):
    pytest.importorskip("lycoris.functional")
    config = ExportConfig(
        output=str(tmp_path / "unet"), merge=True, base_model="examples/world/base", lora_file=loha
    )
    refused(lambda: export(config), loha, "do not fit")


def test_parts_of_shapes_that_misfit_are_refused():
    pytest.importorskip("lycoris.functional")
    parts = {"hada_w1_a": torch.ones(4, 2), "hada_w1_b": torch.ones(2, 6), "hada_w2_a": torch.ones(3, 2),
             "hada_w2_b": torch.ones(2, 6)}  # fmt: skip
    assert missing(parts) is None and size_of(parts) == (4, 6)
    refused(lambda: change("x", parts, 1.0, torch.zeros(4, 6)), "x", "LoHa", "another shape")
