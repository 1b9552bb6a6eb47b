"""The frozen parts: what loads, what is refused, prompts and pictures encoded, memory let go."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from conftest import SIZE, picture, tiny_pipeline
from diffusers import AutoencoderKL

from b4m.backbones.sdxl import (
    check_size,
    decode_latents,
    empty_unet,
    encode_guided,
    encode_images,
    encode_prompts,
    free,
    load_base,
    prepare,
)
from b4m.core.errors import UserError
from b4m.data.images import load_folder


@pytest.fixture
def pipe(tiny_base):
    return load_base(tiny_base)


def test_a_loaded_base_is_frozen(pipe):
    for part in (pipe.unet, pipe.vae, pipe.text_encoder, pipe.text_encoder_2):
        assert not part.training and not any(parameter.requires_grad for parameter in part.parameters())


def test_the_vae_stays_float32(tiny_base):
    half = load_base(tiny_base, dtype=torch.bfloat16)
    assert (half.unet.dtype, half.text_encoder.dtype, half.vae.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )
    latents = encode_images(half.vae, torch.zeros(1, 3, SIZE, SIZE))
    assert latents.dtype == torch.float32
    assert decode_latents(half.vae, latents.bfloat16())[0].size == (SIZE, SIZE)


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
        ({"model_index.json": {"_class_name": "StableDiffusionPipeline"}}, "it is a StableDiffusionPipeline"),
        ({"model_index.json": None}, "model_index.json is missing"),
        ({"model_index.json": b"{"}, "model_index.json is missing or broken"),
        ({"unet": None}, "cannot be loaded"),
        ({"unet__diffusion_pytorch_model.safetensors": b"not safetensors"}, "cannot be loaded"),
        ({"scheduler__scheduler_config.json": {"prediction_type": "sample"}}, "prediction type 'sample'"),
    ],
)
def test_a_base_that_is_not_whole_or_not_sdxl_is_refused(changes, message, tiny_base, tmp_path):
    base = broken(tiny_base, tmp_path / "base", **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_base(base)
    assert base in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["/nowhere/base", "some/where/base", "nobody/nothing", "./base", "two words"]
)
def test_a_base_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match=name):
        load_base(name)
    with pytest.raises(UserError, match=name):
        empty_unet(name)


def test_another_vae_is_used_and_one_that_does_not_fit_refused(tiny_base, tmp_path):
    tiny_pipeline(seed=5).vae.save_pretrained(tmp_path / "vae")
    ours, theirs = load_base(tiny_base), load_base(tiny_base, str(tmp_path / "vae"))
    assert not torch.equal(ours.vae.encoder.conv_in.weight, theirs.vae.encoder.conv_in.weight)
    wide = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=16)
    wide.save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match="4 channels, the VAE makes 16"):
        load_base(tiny_base, str(tmp_path / "wide"))
    with pytest.raises(UserError, match="VAE .*/unet"):
        load_base(tiny_base, str(Path(tiny_base) / "unet"))


def test_prompts_are_encoded_by_both_text_encoders(pipe):
    hidden, pooled = encode_prompts(pipe, ["a photo of snq bear", "yarn"])
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
    latents = encode_images(vae, pixels)
    torch.testing.assert_close(latents, expected)
    assert torch.equal(latents, encode_images(vae, pixels))  # no sampling
    for image, reference in zip(decode_latents(vae, latents), decoded, strict=True):
        ours = torch.tensor(list(image.getdata()), dtype=torch.float32).T.reshape(3, SIZE, SIZE)
        assert (ours - reference).abs().max() <= 1


def test_the_cache_keeps_each_pictures_own_latents_prompt_and_sizes(pipe, folders, tmp_path):
    picture(3, (40, 20)).save(tmp_path / "wide.png")
    pictures = load_folder(folders["content"], SIZE) + load_folder(tmp_path, SIZE)
    prompts = ["a bear", "a house", "a bear", "a photo"]
    cache = prepare(pipe, pictures, prompts)
    assert cache.hidden.shape[0] == 3
    rows = torch.tensor([3, 0, 1, 3])
    given = cache.conditioning(rows)
    for place, row in enumerate(rows.tolist()):
        hidden, pooled = encode_prompts(pipe, [prompts[row]])
        torch.testing.assert_close(given["encoder_hidden_states"][place], hidden[0])
        torch.testing.assert_close(given["added_cond_kwargs"]["text_embeds"][place], pooled[0])
        assert torch.equal(cache.latents[row], encode_images(pipe.vae, pictures[row].pixels[None])[0])
    top, left = pictures[3].crop_top_left
    assert given["added_cond_kwargs"]["time_ids"][0].tolist() == [20, 40, top, left, SIZE, SIZE] and left == 8


def test_freeing_lets_go_of_text_encoders_and_vae():
    pipe = tiny_pipeline()
    gone = [weakref.ref(part) for part in (pipe.text_encoder, pipe.text_encoder_2, pipe.vae)]
    free(pipe, keep_vae=True)
    gc.collect()
    assert [ref() is None for ref in gone] == [True, True, False]
    free(pipe)
    assert gone[2]() is None and pipe.unet is not None


def test_guided_embeddings_suit_the_unet(tiny_base):
    pipe = load_base(tiny_base, dtype=torch.bfloat16)
    plain = encode_guided(pipe, ["a bear"] * 2, None)
    assert {name: tuple(t.shape) for name, t in plain.items()} == {
        "prompt_embeds": (2, 16, 48),
        "negative_prompt_embeds": (2, 16, 48),
        "pooled_prompt_embeds": (2, 24),
        "negative_pooled_prompt_embeds": (2, 24),
    }
    assert all(tensor.dtype == torch.bfloat16 for tensor in plain.values())
    other = encode_guided(pipe, ["a bear"] * 2, "yarn")
    assert not torch.equal(plain["negative_prompt_embeds"], other["negative_prompt_embeds"])


def test_sizes_the_model_cannot_draw_are_refused(pipe):
    check_size(pipe, SIZE, "--resolution")
    with pytest.raises(UserError, match="--resolution 18: .* multiple of 4"):
        check_size(pipe, 18, "--resolution")


def test_an_empty_unet_has_the_layers_and_no_weights(tiny_base, pipe):
    unet = empty_unet(tiny_base)
    assert {p.device.type for p in unet.parameters()} == {"meta"}
    assert {n: p.shape for n, p in unet.named_parameters()} == {
        n: p.shape for n, p in pipe.unet.named_parameters()
    }
