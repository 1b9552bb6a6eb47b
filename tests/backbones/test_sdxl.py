"""A base model: what loads, what is refused, prompts and images encoded, memory let go."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from conftest import SIZE, picture, tiny_pipeline
from diffusers import AutoencoderKL, UNet2DConditionModel

from b4m.backbones.cache import encode
from b4m.backbones.latent_diffusion import check_base, denoiser_hash, encode_images
from b4m.backbones.registry import family_of, open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.core.errors import UserError
from b4m.data.images import load_folder


@pytest.fixture
def backbone(tiny_base):
    return open_backbone(tiny_base)


def test_a_loaded_base_is_frozen(backbone):
    pipe = backbone.pipe
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        assert not part.training and not any(parameter.requires_grad for parameter in part.parameters())


def test_the_vae_stays_float32(tiny_base):
    half = open_backbone(tiny_base, mixed_precision="bf16")
    pipe = half.pipe
    assert (pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    latents = half.encode_images(torch.zeros(1, 3, SIZE, SIZE))
    assert latents.dtype == torch.float32
    assert half.decode_latents(latents.bfloat16())[0].size == (SIZE, SIZE)


def broken(tiny_base, folder, **changes) -> str:
    """A copy of the base with files changed: name -> new JSON entries, bytes, or None to delete."""
    shutil.copytree(tiny_base, folder)
    for name, change in changes.items():
        path = Path(folder) / name.replace("__", "/")
        if change is None:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif isinstance(change, bytes):
            path.write_bytes(change)
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return str(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_index.json": {"_class_name": "FluxPipeline"}}, "it is a FluxPipeline"),
        ({"model_index.json": {"_class_name": "StableDiffusionPipeline"}}, "no plain Stable Diffusion"),
        ({"unet__config.json": {"addition_embed_type": "text"}}, "no text_time conditioning"),
        ({"model_index.json": None}, "model_index.json is missing"),
        ({"model_index.json": b"{"}, "model_index.json is missing or broken"),
        ({"unet": None}, "unet/config.json is missing or broken; download or copy the model again"),
        ({"unet__diffusion_pytorch_model.safetensors": b"not safetensors"}, "cannot be loaded"),
        ({"scheduler__scheduler_config.json": {"prediction_type": "sample"}}, "prediction type 'sample'"),
    ],
)
def test_a_base_that_is_not_whole_or_not_sdxl_is_refused(changes, message, tiny_base, tmp_path):
    base = broken(tiny_base, tmp_path / "base", **changes)
    with pytest.raises(UserError, match=message) as caught:
        open_backbone(base)
    assert base in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/nowhere/base", "some/where/base", "nobody/nothing", "./base", "two words"]
)
def test_a_base_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match=name):
        open_backbone(name)
    with pytest.raises(UserError, match=name):
        family_of(name)


def test_another_vae_is_used_and_one_that_does_not_fit_refused(tiny_base, tmp_path):
    tiny_pipeline(seed=5).vae.save_pretrained(tmp_path / "vae")
    ours, theirs = open_backbone(tiny_base), open_backbone(tiny_base, str(tmp_path / "vae"))
    weights = [backbone.pipe.vae.encoder.conv_in.weight for backbone in (ours, theirs)]
    assert not torch.equal(*weights)
    wide = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16)
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="4 channels, the VAE makes 16"):
        open_backbone(tiny_base, str(tmp_path / "wide"))
    tiny_pipeline(seed=5).vae.save_pretrained(tmp_path / "scaled")
    config = tmp_path / "scaled/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "scaling_factor": 0.13025}))
    with pytest.raises(
        UserError, match="VAE .*/scaled: it scales latents by 0.13025, the base model's own by 0.18"
    ):
        open_backbone(tiny_base, str(tmp_path / "scaled"))
    with pytest.raises(UserError, match="VAE .*/unet"):
        open_backbone(tiny_base, str(Path(tiny_base) / "unet"))


def test_prompts_are_encoded_by_both_text_encoders(backbone):
    pipe, found = backbone.pipe, backbone.encode_prompts(["a photo of snq bear", "yarn"])
    hidden, pooled = found["hidden"], found["pooled"]
    assert hidden.shape == (2, 16, 48) and pooled.shape == (2, 24)
    ids = pipe.tokenizer(
        ["a photo of snq bear"], padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    first = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    torch.testing.assert_close(hidden[:1], torch.cat([first, second.hidden_states[-2]], -1))
    torch.testing.assert_close(pooled[:1], second.text_embeds)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("normalized", [False, True])
def test_latents_are_the_posterior_mean_normalized_and_back(channels, normalized):
    torch.manual_seed(0)
    statistics = {"latents_mean": [0.5] * channels, "latents_std": [2.0] * channels} if normalized else {}
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=channels,
        scaling_factor=0.3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **statistics,
    )
    pixels = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mean
        expected = (mean - 0.5) / 2.0 * 0.3 if normalized else mean * 0.3
        decoded = ((vae.decode(mean).sample.clamp(-1, 1) + 1) * 127.5).round()
    backbone = SDXL(tiny_pipeline())
    backbone.pipe.vae = vae
    latents = backbone.encode_images(pixels)
    torch.testing.assert_close(latents, expected)
    assert torch.equal(latents, encode_images(vae, pixels))  # no sampling
    for image, reference in zip(backbone.decode_latents(latents), decoded, strict=True):
        ours = torch.tensor(list(image.getdata()), dtype=torch.float32).T.reshape(3, SIZE, SIZE)
        assert (ours - reference).abs().max() <= 1


def test_the_cache_keeps_each_images_own_latents_prompt_and_sizes(backbone, folders, tmp_path):
    picture(3, (40, 20)).save(tmp_path / "wide.png")
    images = load_folder(folders["content"], SIZE) + load_folder(tmp_path, SIZE)
    prompts = ["a bear", "a house", "a bear", "a photo"]
    cache = encode(backbone, images, prompts)
    assert {name: len(rows) for name, rows in cache.by_prompt.items()} == {"hidden": 3, "pooled": 3}
    picked = torch.tensor([3, 0, 1, 3])
    given = backbone.arguments(cache.conditions(picked))
    for place, number in enumerate(picked.tolist()):
        alone = backbone.encode_prompts([prompts[number]])
        torch.testing.assert_close(given["encoder_hidden_states"][place], alone["hidden"][0])
        torch.testing.assert_close(given["added_cond_kwargs"]["text_embeds"][place], alone["pooled"][0])
        assert torch.equal(cache.latents[number], backbone.encode_images(images[number].pixels[None])[0])
    top, left = images[3].crop_top_left
    assert given["added_cond_kwargs"]["time_ids"][0].tolist() == [20, 40, top, left, SIZE, SIZE] and left == 8


def test_freeing_lets_go_of_text_encoders_and_vae():
    backbone = SDXL(tiny_pipeline())
    pipe = backbone.pipe
    gone = [weakref.ref(part) for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.vae)]
    backbone.free(keep_vae=True)
    gc.collect()
    assert [ref() is None for ref in gone] == [True, True, False]
    backbone.free()
    assert gone[2]() is None and backbone.denoiser is not None


def test_guided_embeddings_suit_the_unet(tiny_base):
    backbone = open_backbone(tiny_base, mixed_precision="bf16")
    plain = backbone.encode_guided(["a bear"] * 2, None)
    assert {name: tuple(t.shape) for name, t in plain.items()} == {
        "prompt_embeds": (2, 16, 48),
        "negative_prompt_embeds": (2, 16, 48),
        "pooled_prompt_embeds": (2, 24),
        "negative_pooled_prompt_embeds": (2, 24),
    }
    assert all(tensor.dtype == torch.bfloat16 for tensor in plain.values())
    other = backbone.encode_guided(["a bear"] * 2, "yarn")
    assert not torch.equal(plain["negative_prompt_embeds"], other["negative_prompt_embeds"])


def test_sizes_the_model_cannot_draw_are_refused(backbone):
    backbone.check_size(SIZE, "--resolution")
    with pytest.raises(UserError, match="--resolution 18: .* multiple of 4"):
        backbone.check_size(18, "--resolution")


def test_an_empty_denoiser_has_the_layers_and_no_weights(tiny_base, backbone):
    empty = family_of(tiny_base).empty_denoiser(tiny_base)
    assert {p.device.type for p in empty.parameters()} == {"meta"}
    assert {n: p.shape for n, p in empty.named_parameters()} == {
        n: p.shape for n, p in backbone.denoiser.named_parameters()
    }


def test_the_hash_of_a_denoiser_is_of_its_architecture(backbone, tmp_path):
    def altered(**changes) -> UNet2DConditionModel:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config({**backbone.denoiser.config, **changes})

    plain = denoiser_hash(backbone.denoiser)
    backbone.denoiser.save_pretrained(tmp_path)
    assert denoiser_hash(UNet2DConditionModel.from_pretrained(tmp_path)) == plain
    assert denoiser_hash(altered(sample_size=16)) == plain
    assert denoiser_hash(altered(upcast_attention=None)) == plain, (
        "SDXL's own file has it, converted ones do not"
    )
    later = altered()
    later.register_to_config(setting_of_a_later_release=None)
    assert denoiser_hash(later) == plain, "a setting at its default does not count"
    types = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)  # the default, which a file gives as a list
    hashes = set()
    for value in (types, list(types)):
        later.register_to_config(down_block_types=value)
        hashes.add(denoiser_hash(later))
    assert len(hashes) == 1 and plain not in hashes
    for change in ({"cross_attention_dim": 32}, {"attention_head_dim": (4, 4)}, {"in_channels": 8}):
        assert denoiser_hash(altered(**change)) != plain
    check_base(plain, backbone.denoiser, "the file", backbone.name)
    with pytest.raises(UserError, match="the file was made for another UNet"):
        check_base(denoiser_hash(altered(in_channels=8)), backbone.denoiser, "the file", backbone.name)
