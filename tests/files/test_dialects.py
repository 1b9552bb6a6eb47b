"""Dialects: names go there and back on the real SDXL, and agree with Diffusers' own converters."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya, convert_unet_state_dict_to_peft
from torch import nn

from b4m.backbones.published import empty_unet
from b4m.backbones.sdxl import SDXL
from b4m.files.dialects import _WORDS, DIALECTS, detect, parse

ROOT = Path(__file__).parents[2]
CONFIG = dict(  # stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
    sample_size=128,
    in_channels=4,
    block_out_channels=(320, 640, 1280),
    layers_per_block=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=[1, 2, 10],
    attention_head_dim=[5, 10, 20],
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)
Q = "transformer_blocks.0.attn1.to_q"


def transformer_layers(unet) -> list[str]:
    """Every linear layer of a UNet's transformers, attention and feed-forward alike."""
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear) and ".attentions." in name
    ]


@pytest.fixture(scope="module")
def sdxl():
    with torch.device("meta"):
        return UNet2DConditionModel(**CONFIG)


def keys(dialect: str, layers: list[str], depth: int) -> list[str]:
    spelling = DIALECTS[dialect]
    return [spelling.write(layer, depth) + end for layer in layers for end in (spelling.down, spelling.up)]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_names_go_there_and_back_on_sdxl(sdxl, dialect):
    layers = transformer_layers(sdxl)
    assert len(layers) == 722 and sum(".attn" in layer for layer in layers) == 560
    if dialect == "diffusers-processor":
        layers = [layer for layer in layers if ".attn" in layer]
    found = keys(dialect, layers, 2)
    assert len(set(found)) == 2 * len(layers)
    assert [parse(key) for key in found] == [
        (dialect, layer, half) for layer in layers for half in ("down", "up")
    ]
    assert detect(found) == [dialect]


@pytest.mark.parametrize("dialect", ["kohya", "kohya-original"])
def test_names_go_there_and_back_on_other_depths(dialect):
    layers = transformer_layers(SDXL.empty_denoiser(str(ROOT / "examples/world/base")))
    assert len(layers) > 50
    assert [parse(key, 1)[:2] for key in keys(dialect, layers, 1)[::2]] == [
        (dialect, name) for name in layers
    ]
    assert len(set(keys(dialect, layers, 1))) == 2 * len(layers)
    for depth in (1, 2, 3, 5):
        blocks = [
            "mid_block.attentions.0",
            *(f"down_blocks.{i}.attentions.{j}" for i in range(4) for j in range(depth)),
        ]
        blocks += [f"up_blocks.{i}.attentions.{j}" for i in range(4) for j in range(depth + 1)]
        layers = [f"{block}.{Q}" for block in blocks]
        found = keys(dialect, layers, depth)
        assert len(set(found)) == len(found)
        assert [parse(key, depth)[1] for key in found[::2]] == layers


@pytest.mark.parametrize(
    ("original", "layer"),
    [  # as in kohya's files for SDXL
        ("input_blocks_4_1", "down_blocks.1.attentions.0"),
        ("input_blocks_5_1", "down_blocks.1.attentions.1"),
        ("input_blocks_7_1", "down_blocks.2.attentions.0"),
        ("input_blocks_8_1", "down_blocks.2.attentions.1"),
        ("middle_block_1", "mid_block.attentions.0"),
        ("output_blocks_0_1", "up_blocks.0.attentions.0"),
        ("output_blocks_2_1", "up_blocks.0.attentions.2"),
        ("output_blocks_5_1", "up_blocks.1.attentions.2"),
    ],
)
@pytest.mark.parametrize(
    "unit", ["attn1.to_q", "attn2.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2", None]
)
def test_original_names_are_those_of_kohyas_files(original, layer, unit):
    tail = f".transformer_blocks.1.{unit}" if unit else ".proj_in"
    for half in ("down", "up"):
        key = f"lora_unet_{original}{tail.replace('.', '_')}.lora_{half}.weight"
        assert parse(key) == ("kohya-original", layer + tail, half)
    assert parse(key.replace("lora_up.weight", "alpha")) == ("kohya-original", layer + tail, "alpha")


def test_diffusers_itself_reads_our_kohya_names_to_the_same_layers(sdxl):
    layers = [layer for layer in transformer_layers(sdxl) if ".attn" in layer]
    peft = {key: torch.zeros(4, 4) for key in keys("diffusers", layers, 2)}
    theirs = convert_state_dict_to_kohya(dict(peft))
    alphas = {DIALECTS["kohya"].write(layer, 2) + ".alpha" for layer in layers}
    assert set(theirs) == {*keys("kohya", layers, 2), *alphas}
    for dialect in ("kohya", "kohya-original"):
        ours = {key: torch.zeros(4, 4) for key in keys(dialect, layers, 2)}
        ours |= {DIALECTS[dialect].write(layer, 2) + ".alpha": torch.tensor(4.0) for layer in layers}
        mapped = _maybe_map_sgm_blocks_to_diffusers(ours, sdxl.config)
        state, scales = _convert_non_diffusers_lora_to_diffusers(mapped)
        assert set(convert_unet_state_dict_to_peft(state)) == set(peft)
        assert len(scales) == len(layers) and set(scales.values()) == {4.0}


def test_the_feed_forward_and_projections_too(sdxl):
    """Diffusers' kohya reader knows them under the dotted names."""
    layers = [layer for layer in transformer_layers(sdxl) if ".attn" not in layer]
    ours = {key: torch.zeros(4, 4) for key in keys("kohya-original", layers, 2)}
    state, _ = _convert_non_diffusers_lora_to_diffusers(_maybe_map_sgm_blocks_to_diffusers(ours, sdxl.config))
    assert set(convert_unet_state_dict_to_peft(state)) == set(keys("diffusers", layers, 2))


@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_input_blocks_6_1_" + Q,  # where SDXL has a downsampler
        "lora_unet_input_blocks_0_1_" + Q,
        "lora_unet_input_blocks_4_0_" + Q,
        "lora_unet_input_blocks_04_1_" + Q,
        "lora_unet_input_blocks_٤_1_" + Q,
        "lora_unet_input_blocks_" + "9" * 5000 + "_1_" + Q,
        "lora_unet_middle_block_2_" + Q,
        "lora_unet_output_blocks_0_1_emb_layers_1",
        "lora_unet_output_blocks_1_2_conv",  # where SDXL's block is not at its end
        "lora_unet_down_blocks_1_resnets_0_conv3",
        "lora_unet_conv_mid",
        "lora_unet_down_blocks_1_attentions_0_" + Q + "_extra",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_",
        "down_blocks_1_attentions_0_" + Q,
    ],
)
def test_names_outside_the_grammar_are_unknown(name):
    name = name.replace(".", "_")
    assert parse(f"{name}.lora_down.weight") is None
    assert parse(f"{name}.lora_up.weight") is None


def test_layers_outside_the_grammar_have_no_name():
    for layer in ("time_embedding.linear_3", "down_blocks.1.resnets.0.norm1", "down_blocks.1.attn1.to_q"):
        for dialect in ("kohya", "kohya-original"):
            assert DIALECTS[dialect].write(layer, 2) is None
    # a slot that a block of this depth does not have
    assert DIALECTS["kohya-original"].write(f"down_blocks.1.attentions.2.{Q}", 2) is None
    assert DIALECTS["kohya-original"].write(f"up_blocks.1.attentions.3.{Q}", 2) is None
    assert DIALECTS["kohya-original"].write(f"mid_block.attentions.1.{Q}", 2) is None
    assert DIALECTS["kohya-original"].write("up_blocks.1.resnets.3.conv1", 2) is None
    assert DIALECTS["kohya-original"].write("up_blocks.0.upsamplers.0.conv", 2) is None  # _1 or _2?
    assert DIALECTS["diffusers-processor"].write("mid_block.attentions.0.proj_in", 2) is None
    assert parse("unet.mid_block.attentions.0.proj_in_lora.down.weight") is None


def adaptable(unet) -> list[str]:
    """Every linear layer and convolution."""
    return [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


@pytest.mark.parametrize("dialect", ["kohya", "kohya-original", "diffusers", "published"])
@pytest.mark.parametrize("title", ["Stable Diffusion XL", "Stable Diffusion 1.x"])
def test_names_of_convolutions_and_embeddings_go_there_and_back(title, dialect):
    layers = adaptable(empty_unet(title))
    written = {layer: DIALECTS[dialect].write(layer, 2) for layer in layers}
    nameless = [layer for layer, name in written.items() if name is None]
    assert all("upsamplers" in layer for layer in nameless) and bool(nameless) == (
        dialect == "kohya-original"
    )
    names = {name: layer for layer, name in written.items() if name}
    assert len(names) == len(layers) - len(nameless) > 200
    ending = DIALECTS[dialect].down
    assert all(parse(f"{name}{ending}") == (dialect, layer, "down") for name, layer in names.items())


def test_original_names_are_those_of_the_checkpoints():
    """Diffusers' reader of SDXL checkpoints takes each of our original names for the layer that it is of."""
    unet = empty_unet("Stable Diffusion XL")
    biases = ("label_emb.0.0", "label_emb.0.2", "output_blocks.2.2.conv", "output_blocks.5.2.conv")
    names: dict = {f"{name}.bias": None for name in biases}  # which the reader counts on
    for layer in adaptable(unet):
        if name := DIALECTS["kohya-original"].write(layer, 2):
            dotted = _WORDS.sub(lambda found: found[1] or ".", name.removeprefix("lora_unet_"))
            names[f"{dotted}.weight"] = f"{layer}.weight"
    names |= {"output_blocks.2.2.conv.weight": "up_blocks.0.upsamplers.0.conv.weight",
              "output_blocks.5.2.conv.weight": "up_blocks.1.upsamplers.0.conv.weight"}  # fmt: skip
    found = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{key}": layer for key, layer in names.items()}, unet.config
    )
    assert {key: value for key, value in found.items() if value} == {x: x for x in names.values() if x}
    assert len(names) == len(adaptable(unet)) + len(biases)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("lora_unet_output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),
        (
            "lora_unet_output_blocks_2_1_conv",
            "up_blocks.0.upsamplers.0.conv",
        ),  # of SD 1.x, without attention there
        ("lora_unet_input_blocks_3_0_op", "down_blocks.0.downsamplers.0.conv"),
        ("lora_unet_input_blocks_0_0", "conv_in"),
        ("lora_unet_out_2", "conv_out"),
        ("lora_unet_time_embed_2", "time_embedding.linear_2"),
        ("lora_unet_label_emb_0_0", "add_embedding.linear_1"),
        ("lora_unet_time_embedding_linear_1", "time_embedding.linear_1"),
        ("lora_unet_middle_block_2_out_layers_3", "mid_block.resnets.1.conv2"),
        ("lora_unet_input_blocks_4_0_skip_connection", "down_blocks.1.resnets.0.conv_shortcut"),
        ("lora_unet_down_blocks_1_resnets_0_time_emb_proj", "down_blocks.1.resnets.0.time_emb_proj"),
        ("lycoris_down_blocks_1_resnets_0_conv1", "down_blocks.1.resnets.0.conv1"),
        ("unet.input_blocks.4.1." + Q, "down_blocks.1.attentions.0." + Q),
        ("diffusion_model.input_blocks.4.1." + Q, "down_blocks.1.attentions.0." + Q),
        ("model.diffusion_model.input_blocks.4.0.in_layers.2", "down_blocks.1.resnets.0.conv1"),
        ("module.unet._orig_mod.mid_block.attentions.0." + Q, "mid_block.attentions.0." + Q),
        ("base_model.model.unet.mid_block.attentions.0." + Q, "mid_block.attentions.0." + Q),
    ],
)
@pytest.mark.parametrize(
    "ending", ["lora_down.weight", "lora_A.weight", "lora.down.weight", "lora_A.style.weight"]
)
def test_what_tools_put_before_or_after_one_name_is_read(name, layer, ending):
    assert parse(f"{name}.{ending}")[1:] == (layer, "down")


def test_endings_of_other_kinds_are_told():
    name = "lora_unet_mid_block_attentions_0_proj_in"
    ends = {
        "lora_mid.weight": "mid",
        "dora_scale": "magnitude",
        "hada_w1_a": "hada_w1_a",
        "lokr_t2": "lokr_t2",
    }
    for end, part in ends.items():
        assert parse(f"{name}.{end}") == ("other", "mid_block.attentions.0.proj_in", part)
    for end in ("", ".weight", ".default.weight"):
        found = parse(f"unet.mid_block.attentions.0.proj_in.lora_magnitude_vector{end}")
        assert found and found[2] == "rows", end
    for end in ("hada_w3_a", "lokr_t1", "lora_E", "diff", "weight", "bias"):
        assert parse(f"{name}.{end}") is None
    assert parse("unet.mid_block." + "x" * 300 + ".lora_A.weight") is None


@pytest.mark.parametrize(
    "name",
    [
        "transformer.single_transformer_blocks.0.attn.to_k",
        "model.layers.0.self_attn.q_proj",
        "x",
        "unet.foo.to_q",
    ],
)
def test_names_of_other_models_are_unknown(name):
    assert parse(f"{name}.lora_A.weight") is None and parse(f"base_model.model.{name}.lora_A.weight") is None


def test_a_file_of_two_dialects_is_named_so():
    found = [
        f"unet.mid_block.attentions.0.{Q}.lora.down.weight",
        "unet.mid_block.attn1.to_k.lora_A.weight",
        "x",
    ]
    assert detect(found) == ["diffusers", "diffusers-old"]
