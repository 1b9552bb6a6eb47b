"""peft's settings: each layer is scaled as peft scales it; what changes more than a scale is refused by name."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import refused, tiny_pipeline
from diffusers import StableDiffusionXLPipeline
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from b4m.backbones.registry import family_of
from b4m.files import adapter_config
from b4m.files.adapter_config import beside, in_header
from b4m.files.dialects import DIALECTS
from b4m.files.export import export
from b4m.files.lora import load_lora
from b4m.files.opening import open_any, sources
from b4m.files.settings import ExportConfig

Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
LAYERS = (
    Q,
    Q.replace("to_q", "to_out.0"),
    Q.replace("attn1", "attn2"),
    "conv_in",
    "mid_block.resnets.0.conv1",
)
PATTERNS = (
    *(
        "to_q",
        "attn1.to_q",
        r"attn1\.to_q",
        "o_q",
        "^to_q",
        "^down_blocks.1",
        "to_q$",
        "to_.",
        "conv_in",
        "^conv_in",
    ),
    *(
        "to_q|to_out.0",
        "(to_q|conv1)",
        r".*attn1.*",
        r"\d",
        r"transformer_blocks.\d.attn2.to_q",
        r".*\.to_q",
        "mid_block.*",
    ),
    *(Q, f"^{Q}$", Q.upper(), "resnets.0.conv1", "to_out", "0"),
)


def write(folder: Path, settings: dict | str, tensors: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    text = settings if isinstance(settings, str) else json.dumps(settings)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    file = folder / "adapter_model.safetensors"
    save_file(tensors or {f"base_model.model.{Q}.lora_A.weight": torch.ones(4, 6),
                          f"base_model.model.{Q}.lora_B.weight": torch.ones(6, 4)}, file)  # fmt: skip
    return file


def test_patterns_match_as_in_the_installed_peft():
    for first in PATTERNS:
        for second in ("to_q", Q, "x"):
            values = {first: 1.0, second: 2.0}
            for layer in LAYERS:
                key = get_pattern_key(values.keys(), layer)
                assert adapter_config._first(values, layer, 0.0) == values.get(key, 0.0), (
                    first,
                    second,
                    layer,
                )


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)(a|a)(a|a)",
        ".*.*.*x",
        "a{1000}",
        "[",
        "(",
        "x" * 301,
        "(?:a)",
        r"\w+",
        "",
        r"\d" * 80 + "!",
    ],
)
def test_a_pattern_that_could_take_forever_is_refused(tmp_path, pattern):
    """It is a stranger's; peft itself would follow it."""
    write(tmp_path, {"r": 4, "lora_alpha": 4, "alpha_pattern": {pattern: 2}})
    refused(lambda: beside(tmp_path / "adapter_model.safetensors"), "adapter_config.json", "pattern")


SETTINGS = (
    {"r": 4, "lora_alpha": 8},
    {"r": 4, "lora_alpha": 3, "use_rslora": True},
    {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"to_k": 2, "conv1": 3},
        "alpha_pattern": {"attn1.to_k": 5, "conv1": 1},
    },
    {"r": 4, "lora_alpha": 2, "alpha_pattern": {r".*attn2.*to_q": 7, "to_q": 3}, "use_rslora": True},
)


def changes(model) -> dict[str, torch.Tensor]:
    """layer -> dW, as peft itself computes it."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            found[name] = module.get_delta_weight(next(iter(module.lora_A)))
    return found


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("writer", ["peft", "Diffusers"])
def test_what_peft_and_diffusers_write_is_read_as_they_scale_it(tmp_path, settings, writer):
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules=["to_q", "to_k", "conv1", "time_emb_proj"], init_lora_weights=False, **settings
    )
    unet = tiny_pipeline().unet
    if writer == "peft":
        model = get_peft_model(unet, config)
        model.save_pretrained(tmp_path)
        wanted = {name.removeprefix("base_model.model."): dW for name, dW in changes(model).items()}
    else:
        unet.add_adapter(config)
        wanted = changes(unet)
        StableDiffusionXLPipeline.save_lora_weights(
            tmp_path, get_peft_model_state_dict(unet), unet_lora_adapter_metadata=config.to_dict()
        )
    layers = open_any(tmp_path).layers
    assert layers.keys() == wanted.keys() and len(layers) > 20
    for layer, (up, down) in layers.items():
        found = (up @ down.flatten(1)).view_as(wanted[layer])
        assert torch.allclose(found, wanted[layer], rtol=1e-5, atol=1e-7), layer


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_scale_goes_into_what_is_exported(tmp_path, tiny_base, dialect):
    tensors, wanted = {}, {}
    denoiser = family_of(tiny_base).empty_denoiser(tiny_base)
    for rank, scale, layer in ((4, 2.0, Q), (2, 1.5, Q.replace("to_q", "to_v"))):
        m, n = denoiser.get_submodule(layer).weight.shape
        up, down = torch.randn(m, rank), torch.randn(rank, n)
        tensors |= {f"base_model.model.{layer}.lora_A.weight": down}
        tensors |= {f"base_model.model.{layer}.lora_B.weight": up}
        wanted[layer] = scale * up @ down
    settings = {"r": 4, "lora_alpha": 8, "rank_pattern": {"to_v": 2}, "alpha_pattern": {"to_v": 3}}
    write(tmp_path / "peft", settings, tensors)
    out = str(tmp_path / "out.safetensors")
    export(
        ExportConfig(
            lora_file=str(tmp_path / "peft"), output=out, base_model=tiny_base, dialect=dialect, dtype="fp32"
        )
    )
    found = open_any(out)
    assert found.dialects == (dialect,) and found.layers.keys() == wanted.keys()
    for layer, (up, down) in found.layers.items():
        assert torch.allclose(up @ down, wanted[layer], atol=1e-5), layer


def test_names_are_matched_as_peft_has_them(tmp_path):
    """A model in which the UNet is a part: its name stands before the layers', and patterns may ask for it."""
    name = f"base_model.model.unet.{Q}"
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 6), f"{name}.lora_B.weight": torch.ones(6, 4)}
    settings = {"r": 4, "lora_alpha": 4, "alpha_pattern": {f"^unet.{Q}": 12}}
    layers, _ = load_lora(write(tmp_path, settings, tensors))
    assert torch.equal(layers[Q][0], torch.full((6, 4), 3.0))


def test_a_folder_is_its_file(tmp_path):
    file = write(tmp_path, {"r": 4, "lora_alpha": 8})
    opened = open_any(tmp_path)
    assert opened.where == str(file) and torch.equal(opened.layers[Q][0], torch.full((6, 4), 2.0))
    assert torch.equal(load_lora(file)[0][Q][0], opened.layers[Q][0])
    assert sources(tmp_path) == [file, tmp_path / "adapter_config.json"]  # both decide
    renamed = file.rename(tmp_path / "x.safetensors")
    assert sources(renamed) == [renamed, tmp_path / "adapter_config.json"]  # the only one there
    assert (
        torch.equal(load_lora(renamed)[0][Q][0], opened.layers[Q][0]) and not open_any(renamed).contents.notes
    )


def test_without_its_settings_a_file_of_peft_is_refused_and_a_renamed_one_said_to_be_taken_as_it_is(tmp_path):
    file = write(tmp_path, {"r": 4, "lora_alpha": 8})
    (tmp_path / "adapter_config.json").unlink()
    refused(lambda: load_lora(file), file, "adapter_config.json", "not beside it")
    save_file(load_file(file), tmp_path / "renamed.safetensors")
    opened = open_any(tmp_path / "renamed.safetensors")
    assert torch.equal(opened.layers[Q][0], torch.ones(6, 4))
    assert len(opened.contents.notes) == 1 and "scale of 1 is assumed" in opened.contents.notes[0]


def test_the_settings_of_another_file_in_the_folder_are_not_its_own(tmp_path):
    write(tmp_path, {"r": 4, "lora_alpha": 8})
    other = tmp_path / "other.safetensors"
    save_file(
        {f"unet.{Q}.lora_A.weight": torch.ones(4, 6), f"unet.{Q}.lora_B.weight": torch.ones(6, 4)}, other
    )
    assert torch.equal(load_lora(other)[0][Q][0], torch.ones(6, 4)) and not open_any(other).contents.notes
    assert sources(other) == [other]


def test_without_tensors_of_a_rank_the_settings_name_it(tmp_path):
    """A LoKr of two whole matrices: peft scales it all the same."""
    name = f"base_model.model.{Q}"
    tensors = {f"{name}.lokr_w1": torch.ones(2, 2), f"{name}.lokr_w2": torch.ones(3, 3)}
    settings = {"peft_type": "LOKR", "r": 4, "alpha": 8, "rank_pattern": {"to_q": 16}}
    write(tmp_path, settings, tensors)
    assert open_any(tmp_path).contents.others[Q][1] == 0.5


def test_an_alpha_in_the_file_goes_over_the_settings(tmp_path):
    """As one that a converter has written beside peft's names."""
    tensors = load_file(write(tmp_path, {"r": 4, "lora_alpha": 8})) | {
        f"base_model.model.{Q}.alpha": torch.tensor(12)
    }
    layers, _ = load_lora(write(tmp_path, {"r": 4, "lora_alpha": 8}, tensors))
    assert torch.equal(layers[Q][0], torch.full((6, 4), 3.0))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"r": 8}, "rank 8"),
        ({"rank_pattern": {"to_q": 2}}, "rank 2"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"lora_alpha": "x"}, "cannot be read"),
        ({"lora_alpha": math.nan}, "not finite"),
        ({"alpha_pattern": {"to_q": math.inf}}, "not finite"),
        ({"alpha_pattern": ["to_q"]}, "cannot be read"),
        ({"peft_type": "VERA"}, "VERA"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"something_new": 7}, "something_new"),
        ({"use_dora": True}, "DoRA"),
    ],
)
def test_settings_that_change_more_than_a_scale_or_contradict_the_tensors_are_refused(tmp_path, change, word):
    file = write(tmp_path, {"r": 4, "lora_alpha": 4, "peft_type": "LORA", **change})
    refused(lambda: load_lora(file), "adapter_config.json", word)


def test_what_peft_writes_by_default_is_not_refused(tmp_path):
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"], init_lora_weights="gaussian").to_dict()
    plain = json.loads(json.dumps(settings, default=list))
    assert (
        in_header(
            "x", {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in plain.items()})}
        ).alpha
        == 8
    )
    assert beside(write(tmp_path, plain)).scale(Q, 4) == 2.0


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", '"x"', "[" * 10_000, '{"lora_alpha": 1e999}', "null"])
def test_broken_settings_are_refused(tmp_path, text):
    refused(lambda: load_lora(write(tmp_path, text)), "adapter_config.json")


def test_enormous_settings_are_refused_unread(tmp_path):
    file = write(tmp_path, {"r": 4, "lora_alpha": 8})
    with (tmp_path / "adapter_config.json").open("wb") as config:
        config.truncate(adapter_config.MAX_BYTES + 1)
    refused(lambda: load_lora(file), "adapter_config.json", "more than")


def test_the_text_encoders_settings_are_not_the_unets():
    header = {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 2, "text_encoder.r": 4})}
    assert in_header("x", header) is None and in_header("x", {}) is None
