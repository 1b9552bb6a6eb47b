"""One .safetensors file of a whole checkpoint: read like its folder, or told by name what it is instead."""

import json
import math
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from bases import (
    original,
    original_clip,
    original_open_clip,
    original_unet,
    original_vae,
    save_original,
    two_widths_pipeline,
)
from conftest import SIZE, refused, tiny_sd15_pipeline, tiny_tokenizer
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from b4m.backbones import single_file
from b4m.backbones.latent_diffusion import denoiser_hash
from b4m.backbones.registry import cut_off_at_hand, family_of, open_backbone
from b4m.backbones.sd15 import SD15
from b4m.backbones.sdxl import SDXL
from b4m.backbones.single_file import CONFIGS
from b4m.sampling.sample import sample

UNET = "model.diffusion_model."
MAKES = {"sdxl": two_widths_pipeline, "sd15": tiny_sd15_pipeline}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made("sdxl") -> a folder, and the tensors of the same model in the original names."""

    @cache
    def make(layout: str) -> tuple[str, dict[str, torch.Tensor]]:
        folder = tmp_path_factory.mktemp(layout) / "base"
        pipe = MAKES[layout]()
        pipe.save_pretrained(folder)
        return str(folder), original(pipe)

    return make


@pytest.fixture
def tiny(made, tmp_path, monkeypatch):
    """The package's settings are those of the tiny models."""
    for layout in MAKES:
        shutil.copytree(
            made(layout)[0], tmp_path / "configs" / layout, ignore=shutil.ignore_patterns("*.safetensors")
        )
    monkeypatch.setattr(single_file, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(single_file, "_tokenizer", lambda folder: tiny_tokenizer())


def drawn(base: str) -> np.ndarray:
    backbone = open_backbone(base)
    return np.asarray(sample(backbone, ["a photo of snq bear"], [3], steps=9, size=SIZE)[0], dtype=int)


@pytest.mark.parametrize(("layout", "family"), [("sdxl", SDXL), ("sd15", SD15)])
def test_a_file_is_the_same_model_as_its_folder(made, tiny, tmp_path, layout, family):
    folder, tensors = made(layout)
    file = save_original(tensors, tmp_path / "Pony V6.safetensors")
    assert family_of(file) is family
    assert cut_off_at_hand(file, ["a bear"]) == cut_off_at_hand(folder, ["a bear"]) is not None
    assert np.abs(drawn(file) - drawn(folder)).max() == 0
    ours, theirs = family.load_denoiser(file), family.load_denoiser(folder)
    assert all(torch.equal(weight, theirs.state_dict()[name]) for name, weight in ours.state_dict().items())
    assert denoiser_hash(ours) == denoiser_hash(theirs) == denoiser_hash(family.empty_denoiser(file))
    half = open_backbone(file, mixed_precision="bf16").pipe
    assert (half.unet.dtype, half.text_encoder.dtype, half.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )


def test_a_file_in_half_or_eighth_precision_is_read(made, tiny, tmp_path):
    tensors = made("sd15")[1]
    for name, dtype in (("half", torch.float16), ("eighth", torch.float8_e4m3fn)):
        small = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        unet = SD15.load_denoiser(save_original(small, tmp_path / f"{name}.safetensors"))
        assert unet.dtype == torch.float32
        assert torch.equal(unet.conv_in.weight, small[f"{UNET}input_blocks.0.0.weight"].float())


def test_a_file_of_quantized_weights_is_refused(made, tiny, tmp_path):
    for start in (UNET, "first_stage_model.", "cond_stage_model."):
        tensors = dict(made("sd15")[1])
        name = next(name for name in tensors if name.startswith(start))
        file = save_original({**tensors, name: tensors[name].to(torch.int8)}, tmp_path / "q.safetensors")
        refused(lambda file=file: open_backbone(file), file, "quantized (I8)", "float16")


@pytest.mark.parametrize("marks", [("v_pred",), ("v_pred", "ztsnr")])
def test_v_prediction_is_told_by_the_marks_in_a_file(made, tiny, tmp_path, marks):
    tensors = made("sdxl")[1] | {mark: torch.zeros(0) for mark in marks}
    file = save_original(tensors, tmp_path / "noob.safetensors")
    backbone = open_backbone(file)
    assert backbone.prediction_type == SDXL.read_prediction_type(file) == "v_prediction"
    assert (backbone.alphas_cumprod[-1] < 1e-6) == ("ztsnr" in marks)


def test_v_prediction_is_told_by_the_metadata(made, tiny, tmp_path):
    for key, value in (("modelspec.predict_key", "v"), ("modelspec.prediction_type", "v")):
        file = save_original(made("sdxl")[1], tmp_path / "a.safetensors", **{key: value})
        assert SDXL.read_prediction_type(file) == "v_prediction"
    for name in ("plain", "my_vpred_model"):  # the file speaks louder than its name
        told = {"modelspec.predict_key": "epsilon"}
        file = save_original(made("sdxl")[1], tmp_path / f"{name}.safetensors", **told)
        assert SDXL.read_prediction_type(file) == "epsilon"


@pytest.mark.parametrize(
    ("name", "told", "words"),
    [
        ("noobaiXL_vPred10", "", "v-prediction"),
        ("merge-v-prediction", "", "v-prediction"),
        ("x ztSNR", "", "zero terminal SNR"),
        ("zero_snr", "epsilon", "zero terminal SNR"),
        ("vpred-ztsnr", "v", "zero terminal SNR"),
    ],
)
def test_a_name_that_says_more_than_the_file_is_refused(made, tiny, tmp_path, name, told, words):
    """Read as epsilon, or as another noise process, it would be trained and drawn wrongly, without a word."""
    metadata = {"modelspec.prediction_type": told} if told else {}
    file = save_original(made("sdxl")[1], tmp_path / f"{name}.safetensors", **metadata)
    refused(lambda: open_backbone(file), file, f"its name speaks of {words}", "scheduler_config.json")
    refused(lambda: SDXL.read_prediction_type(file), file)


OTHER_FILES = {
    "Playground v2.5": ["edm_mean", f"{UNET}x", "conditioner.embedders.1.x"],
    "CosXL": ["edm_vpred.sigma_max", f"{UNET}x", "conditioner.embedders.1.x"],
    "quantized": [f"{UNET}a.scale_weight", "conditioner.embedders.1.x"],
    "--lora-file": ["lora_unet_down_blocks_0_attn1_to_q.lora_down.weight"],
    "a LoRA": ["unet.down_blocks.0.attn1.to_q.lora_A.weight"],
    "refiner": ["conditioner.embedders.0.model.x", f"{UNET}input_blocks.0.0.weight"],
    "Stable Diffusion 2.x": ["cond_stage_model.model.x", f"{UNET}input_blocks.0.0.weight"],
    "Stable Diffusion 3": [f"{UNET}joint_blocks.0.x"],
    "FLUX": ["double_blocks.0.img_attn.qkv.weight"],
    "ControlNet": ["control_model.input_blocks.0.0.weight"],
    "a UNet without": [f"{UNET}input_blocks.0.0.weight"],
    "a UNet without text": ["down_blocks.0.resnets.0.conv1.weight"],
    "--vae": ["first_stage_model.encoder.conv_in.weight"],
    "an autoencoder": ["decoder.up.0.block.0.conv1.weight"],
    "no Stable Diffusion": ["model.layers.0.self_attn.q_proj.weight"],
    "its first tensor is none": [],
}


@pytest.mark.parametrize("words", OTHER_FILES)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, words):
    path = save_original({name: torch.zeros(2, 2) for name in OTHER_FILES[words]}, tmp_path / "x.safetensors")
    for action in (family_of, open_backbone):
        refused(lambda action=action: action(path), f"base model {path}", words)


def test_what_a_checkpoint_lacks_is_named(made, tiny, tmp_path):
    tensors = made("sdxl")[1]

    def without(start: str) -> str:
        left = {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}
        assert len(left) < len(tensors)
        return save_original(left, tmp_path / "part.safetensors")

    part = without("first_stage_model.")
    refused(lambda: open_backbone(part), part, "no autoencoder", "--vae")
    vae = save_original(
        original_vae(two_widths_pipeline().vae.state_dict(), ""), tmp_path / "vae.safetensors"
    )
    assert np.array_equal(drawn(made("sdxl")[0]), np.asarray(sample_with_vae(part, vae), dtype=int))
    part = without("first_stage_model.decoder.mid.")
    refused(lambda: open_backbone(part), part, "it is not whole")
    part = without("conditioner.embedders.1.model.transformer.resblocks.1.mlp")
    refused(lambda: open_backbone(part), part, "its text_encoder_2 is not whole")
    part = without(f"{UNET}middle_block.1.")
    refused(lambda: SDXL.empty_denoiser(part), part, "its UNet is not the published one")
    refused(lambda: open_backbone(part), part, "its UNet is not the published one")


def sample_with_vae(base: str, vae: str):
    return sample(open_backbone(base, vae), ["a photo of snq bear"], [3], steps=9, size=SIZE)[0]


def test_a_vae_may_be_one_file(made, tiny, tmp_path):
    """In the original names, bare or as part of a checkpoint, or in Diffusers' own."""
    folder, tensors = made("sdxl")
    state = two_widths_pipeline(seed=5).vae.state_dict()
    image = sample_with_vae(folder, save_original(original_vae(state, ""), tmp_path / "bare.safetensors"))
    assert not np.array_equal(image, sample_with_vae(folder, folder + "/vae"))
    others = {"whole": tensors | original_vae(state), "diffusers": state}
    for name, given in others.items():
        again = sample_with_vae(folder, save_original(given, tmp_path / f"{name}.safetensors"))
        assert np.array_equal(image, again), name
    older = save_original(made("sd15")[1], tmp_path / "older.safetensors")
    refused(lambda: open_backbone(folder, older), f"VAE {older}", "autoencoder is of sd15 models")
    lora = save_original({"lora_unet_x.lora_down.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    refused(lambda: open_backbone(folder, lora), f"VAE {lora}", "autoencoder")


def test_nine_channels_are_named(made, tiny, tmp_path):
    tensors = dict(made("sdxl")[1])
    tensors[f"{UNET}input_blocks.0.0.weight"] = torch.zeros(32, 9, 3, 3)
    file = save_original(tensors, tmp_path / "inpaint.safetensors")
    for action in (open_backbone, SDXL.empty_denoiser, SDXL.load_denoiser, SDXL.read_prediction_type):
        refused(lambda action=action: action(file), file, "9 channels, as inpainting models do")


def test_a_file_that_is_cut_off_is_refused(made, tiny, tmp_path):
    file = Path(save_original(made("sd15")[1], tmp_path / "cut.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    refused(lambda: open_backbone(str(file)), file, "not a whole safetensors file")
    file.write_bytes(b"PK\3\4" + bytes(100))
    refused(lambda: family_of(str(file)), file, "is a zip archive")


# the settings that come with the package

PARAMETERS = {  # of the published models, as their cards and papers count them
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
}


def published(layout: str) -> dict[str, torch.nn.Module]:
    """The parts without their weights."""
    root = CONFIGS / layout
    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(root / "unet")),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(root / "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(root / "text_encoder")),
        }
        if layout == "sdxl":
            second = CLIPTextConfig.from_pretrained(root / "text_encoder_2")
            parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
    return parts


def sparse(tensors: dict[str, torch.Tensor], path: Path) -> str:
    """A file with a header for all of `tensors`, and no bytes on the disk."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        size = 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return str(path)


@pytest.mark.parametrize("layout", PARAMETERS)
def test_the_settings_are_those_of_the_published_models(layout, tmp_path):
    parts = published(layout)
    counted = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert counted == PARAMETERS[layout]
    prefix = "conditioner.embedders.0." if layout == "sdxl" else "cond_stage_model."
    tensors = original_unet(parts["unet"].state_dict(), 2) | original_clip(
        parts["text_encoder"].state_dict(), prefix
    )
    if layout == "sdxl":
        tensors |= original_open_clip(parts["text_encoder_2"].state_dict())
    vae = parts["vae"].state_dict()
    read = convert_ldm_vae_checkpoint(
        original_vae(vae), json.loads((CONFIGS / layout / "vae/config.json").read_text())
    )
    assert {name: tensor.shape for name, tensor in read.items()} == {name: t.shape for name, t in vae.items()}
    family = {"sdxl": SDXL, "sd15": SD15}[layout]
    file = sparse(tensors, tmp_path / "model.safetensors")
    assert family_of(file) is family
    assert denoiser_hash(family.empty_denoiser(file)) == denoiser_hash(parts["unet"])
    assert family.read_prediction_type(file) == "epsilon"
    smaller = {
        name: tensor for name, tensor in tensors.items() if ".transformer_blocks.0.attn1.to_q" not in name
    }
    file = sparse(smaller, tmp_path / "distilled.safetensors")
    refused(lambda: family.empty_denoiser(file), file, "is not the published one")


def test_the_tokenizers_are_clips():
    first, second = (single_file._tokenizer(CONFIGS / "sdxl" / name) for name in ("tokenizer", "tokenizer_2"))
    for tokenizer in (first, second):
        ids = tokenizer("a photo of a cat", padding="max_length", max_length=77, truncation=True).input_ids
        assert ids[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert len(tokenizer) == 49408 and tokenizer.model_max_length == len(ids) == 77
    assert (first.pad_token_id, second.pad_token_id) == (49407, 0)
