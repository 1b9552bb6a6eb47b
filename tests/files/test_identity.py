"""What a file is: named from keys and shapes, refused by name where b4m has no use for it, never stamped as another."""

from dataclasses import replace

import pytest
import torch
from conftest import refused
from safetensors import safe_open
from safetensors.torch import save_file

from b4m.apps.info import describe
from b4m.backbones.published import PUBLISHED, empty_unet
from b4m.config.presets import SDXL
from b4m.files.export import export
from b4m.files.identity import foreign, made_for, sizes_of
from b4m.files.opening import open_any
from b4m.files.settings import ExportConfig

ATTN = "transformer_blocks.0.attn"
FOREIGN = {
    "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": "FLUX.1",
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "FLUX.1",
    "diffusion_model.single_blocks.3.linear1.lora_A.weight": "FLUX.1",
    "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj.lora_A.weight": "FLUX.2",
    "lora_unet_joint_blocks_3_x_block_attn_qkv.lora_down.weight": "Stable Diffusion 3",
    "transformer.transformer_blocks.3.attn.add_q_proj.lora_A.weight": "FLUX.1, Qwen-Image or Stable Diffusion 3",
    "transformer.transformer_blocks.3.img_mlp.net.2.lora_A.weight": "Qwen-Image",
    "diffusion_model.layers.3.attention.qkv.lora_A.weight": "Z-Image or Lumina",
    "lora_unet_blocks_3_cross_attn_q.lora_down.weight": "Wan",
    "lora_prior_unet_down_blocks_0_1_attention.lora_down.weight": "Stable Cascade",
    "transformer.transformer_blocks.3.attn1.to_q.lora_A.weight": "another image or video transformer",
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": "a language model",
    "base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight": "a language model",
    "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight": "a language model",
    "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": "T5",
    "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": "a vision model",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": "text encoder",
    "lora_unet_mid_block_attentions_0_proj_in.oft_blocks": "OFT",
    "lora_unet_mid_block_attentions_0_proj_in.diff": "whole differences",
    "lora_unet_mid_block_attentions_0_proj_in.a1.weight": "GLoRA",
    "unet.mid_block.attentions.0.proj_in.lora_B.bias": "biases",
    "model.diffusion_model.input_blocks.4.1.proj_in.weight": "a whole checkpoint",
    "down_blocks.0.resnets.0.conv1.weight": "a UNet",
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "ip_adapter.1.to_k_ip.weight": "an IP-Adapter",
    "decoder.mid_block.resnets.0.conv1.weight": "an autoencoder",
    "text_model.encoder.layers.0.self_attn.q_proj.weight": "text encoder",
    "emb_params": "an embedding",
    "clip_l": "an embedding",
}


@pytest.mark.parametrize("key", FOREIGN)
def test_what_b4m_has_no_use_for_is_named_by_info_and_refused_everywhere_else(key, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(4, 4)}, path)
    facts = describe(path)
    assert FOREIGN[key] in facts["type"] and facts["b4m"] == "has no use for it"
    refused(lambda: open_any(path), path, FOREIGN[key])
    config = ExportConfig(lora_file=str(path), output=str(tmp_path / "out.safetensors"))
    refused(lambda: export(config), path, FOREIGN[key])
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "header", [{}, {"lora_adapter_metadata": '{"transformer.r": 4, "transformer.lora_alpha": 4}'}]
)
@pytest.mark.parametrize("name", ["x.safetensors", "adapter_model.safetensors"])
def test_it_is_named_whatever_peft_says_of_its_scale(tmp_path, header, name):
    key = "transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight"
    save_file({key: torch.zeros(4, 4)}, tmp_path / name, metadata=header)
    refused(lambda: open_any(tmp_path / name), name, "FLUX.1")
    (tmp_path / "adapter_config.json").write_text(
        '{"task_type": "CAUSAL_LM", "modules_to_save": ["lm_head"]}'
    )
    refused(lambda: open_any(tmp_path / name), name, "FLUX.1")


def test_one_names_blocks_of_several_models_and_shapes_tell_which():
    key = "transformer.transformer_blocks.{}.attn.to_k.lora_A.weight"
    for number, width, model in (
        (3, 1536, "Stable Diffusion 3"),
        (3, 2432, "Stable Diffusion 3"),
        (40, 3072, "Qwen-Image"),
    ):
        name = key.format(number)
        assert foreign({name: torch.zeros(4, width, device="meta")}, [name]) == f"a LoRA of {model}"
    key = "diffusion_model.layers.3.attention.to_q.lora_A.weight"
    assert foreign({key: torch.zeros(4, 3840, device="meta")}, [key]) == "a LoRA of Z-Image"


def test_what_nobody_knows_is_told_by_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    for key in ("x", "layer.lora_A.weight", "unet.my_block.lora_A.weight"):
        save_file({key: torch.zeros(4, 4)}, path)
        refused(lambda: describe(path), path, "no LoRA weights", key)


# which Stable Diffusion


@pytest.mark.parametrize("title", [one.title for one in PUBLISHED])
def test_a_published_model_is_told_by_its_layers(title):
    sizes = sizes_of(empty_unet(title))
    assert made_for(sizes) == (title,)
    assert made_for({layer: size for layer, size in sizes.items() if ".attn2.to_k" in layer}) == (title,)
    assert made_for({**sizes, "conv_in": (1, 1)}) == made_for({"mid_block.x": (1, 1)}) == ()


def test_layers_that_several_models_have_tell_that_it_is_one_of_them():
    found = made_for({f"down_blocks.1.attentions.0.{ATTN}1.to_q": (640, 640)})
    assert found == ("Stable Diffusion XL", "Stable Diffusion 1.x", "Stable Diffusion 2.x")


def lora(path, layer, m, n, metadata=None):
    tensors = {
        f"unet.{layer}.lora_A.weight": torch.ones(2, n),
        f"unet.{layer}.lora_B.weight": torch.ones(m, 2),
    }
    save_file(tensors, path, metadata=metadata)
    return path


XL = (f"down_blocks.1.attentions.0.{ATTN}2.to_k", 640, 2048)
ONE = (f"down_blocks.0.attentions.0.{ATTN}2.to_k", 320, 768)


@pytest.mark.parametrize("metadata", [None, {"ss_base_model_version": "sd_v2", "ss_v2": "True"}])
def test_an_export_is_stamped_with_the_model_that_its_layers_fit(tmp_path, metadata):
    """Nothing of a base model that is known by its name needs to be there."""
    path, out = lora(tmp_path / "x.safetensors", *XL, metadata), tmp_path / "out.safetensors"
    export(ExportConfig(lora_file=str(path), output=str(out), base_model=SDXL, dialect="kohya-original"))
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["ss_base_model_version"] == "sdxl_base_v1-0" and "ss_v2" not in file.metadata()
        assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.alpha" in file.keys()
    assert describe(path)["made for"] == "Stable Diffusion XL"


def test_layers_of_several_models_are_stamped_with_none_of_them(tmp_path, capsys):
    path = lora(tmp_path / "x.safetensors", f"down_blocks.1.attentions.0.{ATTN}1.to_q", 640, 640)
    config = ExportConfig(lora_file=str(path), output=str(tmp_path / "out.safetensors"), base_model=SDXL)
    with safe_open(export(config), framework="pt") as file:
        assert not {"modelspec.architecture", "ss_base_model_version"} & file.metadata().keys()
    assert "Stable Diffusion XL and Stable Diffusion 1.x" in capsys.readouterr().err
    said = {"modelspec.architecture": "stable-diffusion-v1/lora"}
    lora(path, f"down_blocks.1.attentions.0.{ATTN}1.to_q", 640, 640, said)
    other = replace(config, output=str(tmp_path / "other.safetensors"))  # since a note is said once
    with safe_open(export(other), framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert not capsys.readouterr().err


def test_a_file_for_another_model_is_refused_with_its_name(tmp_path):
    path = lora(tmp_path / "x.safetensors", *ONE)
    for name, file, right in (
        (SDXL, path, "Stable Diffusion 1.x"),
        (
            "stable-diffusion-v1-5/stable-diffusion-v1-5",
            lora(tmp_path / "y.safetensors", *XL),
            "Stable Diffusion XL",
        ),
    ):
        config = ExportConfig(lora_file=str(file), output=str(tmp_path / "out.safetensors"), base_model=name)
        refused(lambda config=config: export(config), file, "1 of 1 layers do not fit", name, right)
    config = ExportConfig(lora_file=str(path), output=str(tmp_path / "out.safetensors"),
                          base_model="runwayml/stable-diffusion-v1-5")  # fmt: skip
    with safe_open(export(config), framework="pt") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/lora"


def test_layers_of_no_published_model_are_never_stamped(tmp_path):
    path = lora(tmp_path / "x.safetensors", f"mid_block.attentions.0.{ATTN}1.to_q", 12, 12)
    assert describe(path)["made for"] == "no published Stable Diffusion model"
    config = ExportConfig(lora_file=str(path), output=str(tmp_path / "out.safetensors"), base_model=SDXL)
    refused(lambda: export(config), path, "do not fit", "--base-model")
    assert not (tmp_path / "out.safetensors").exists()
