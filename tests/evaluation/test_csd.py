"""CSD: descriptors of a tiny tower against CLIP's own formulas, how checkpoints are read, and what is refused."""

import argparse
import os
import pathlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import picture
from safetensors.torch import save_file
from torch import nn

from b4m.core.errors import UserError
from b4m.evaluation.extractors import load_extractor

WIDTH, BLOCKS, PATCH, SIDE, DIM = 128, 2, 7, 14, 12  # two heads of 64, four patches


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """A random checkpoint under OpenAI's names, as the published one has them."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator) * 0.1

    def norm(name):
        return {f"{name}.weight": 1 + random(WIDTH), f"{name}.bias": random(WIDTH)}

    def linear(name, out, width):
        return {f"{name}.weight": random(out, width), f"{name}.bias": random(out)}

    found = {
        "conv1.weight": random(WIDTH, 3, PATCH, PATCH),
        "class_embedding": random(WIDTH),
        "positional_embedding": random(1 + (SIDE // PATCH) ** 2, WIDTH),
        **norm("ln_pre"),
        **norm("ln_post"),
    }
    for block in range(BLOCKS):
        at = f"transformer.resblocks.{block}"
        found |= {**norm(f"{at}.ln_1"), **norm(f"{at}.ln_2")}
        found |= {
            f"{at}.attn.in_proj_weight": random(3 * WIDTH, WIDTH),
            f"{at}.attn.in_proj_bias": random(3 * WIDTH),
        }
        found |= linear(f"{at}.attn.out_proj", WIDTH, WIDTH)
        found |= {
            **linear(f"{at}.mlp.c_fc", 4 * WIDTH, WIDTH),
            **linear(f"{at}.mlp.c_proj", WIDTH, 4 * WIDTH),
        }
    found = {f"backbone.{name}": tensor for name, tensor in found.items()}
    return {**found, "last_layer_style": random(WIDTH, DIM), "last_layer_content": random(WIDTH, DIM)}


def checkpoint(tensors, **changes) -> dict:
    """What the published file holds: weights under the names of a wrapper, and the state of the training."""
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.linspace(0, 1, 7)[3]
    return {
        "model_state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
        "opt_bb": optimizer.state_dict(),
        "opt_proj": optimizer.state_dict(),
        "iter": 80000,
        "args": argparse.Namespace(arch="vit_large", lr=0.003, eval_k=[1, 5], gpu=0, path=None),
        "fp16_scaler": {"scale": np.float64(65536), "growth_interval": 2000, "_growth_tracker": 5},
        **changes,
    }


def by_hand(tensors, pictures) -> torch.Tensor:
    """Eq. by eq. with torch's own attention, on pixels by Pillow and numpy."""
    w = {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"])

    mean, deviation = (
        np.array([0.48145466, 0.4578275, 0.40821073]),
        np.array([0.26862954, 0.26130258, 0.27577711]),
    )
    levels = np.stack([np.asarray(each.convert("RGB")) for each in pictures]) / 255
    pixels = torch.from_numpy((levels - mean) / deviation).permute(0, 3, 1, 2).float()
    x = F.conv2d(pixels, w["conv1.weight"], stride=PATCH).flatten(2).transpose(1, 2)  # (k, 4, width)
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    for block in range(BLOCKS):
        at = f"transformer.resblocks.{block}"
        y = norm(x, f"{at}.ln_1")
        x = x + F.multi_head_attention_forward(
            *(y.transpose(0, 1),) * 3,
            embed_dim_to_check=WIDTH,
            num_heads=WIDTH // 64,
            in_proj_weight=w[f"{at}.attn.in_proj_weight"],
            in_proj_bias=w[f"{at}.attn.in_proj_bias"],
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=w[f"{at}.attn.out_proj.weight"],
            out_proj_bias=w[f"{at}.attn.out_proj.bias"],
            training=False,
            need_weights=False,
        )[0].transpose(0, 1)
        y = F.linear(norm(x, f"{at}.ln_2"), w[f"{at}.mlp.c_fc.weight"], w[f"{at}.mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, w[f"{at}.mlp.c_proj.weight"], w[f"{at}.mlp.c_proj.bias"])
    return F.normalize(norm(x[:, 0], "ln_post") @ w["last_layer_style"], dim=1)


@pytest.fixture(scope="module")
def pictures():
    return [picture(seed, (SIDE, SIDE)) for seed in range(3)]


@torch.no_grad()
def test_descriptors_are_those_of_the_formulas(tensors, pictures, tmp_path):
    """From either form of the checkpoint, in a file and in a folder."""
    (tmp_path / "folder").mkdir()
    save_file(tensors, tmp_path / "folder" / "model.safetensors")
    torch.save(checkpoint(tensors), tmp_path / "checkpoint.pth")
    expected = by_hand(tensors, pictures)
    for place in ("folder", "folder/model.safetensors", "checkpoint.pth"):
        extractor = load_extractor(f"csd:{tmp_path / place}", cache=tmp_path / "cache" / place)
        found = extractor.images(pictures)
        assert found.shape == (3, DIM) and torch.allclose(found, expected, atol=1e-6), place
        assert torch.equal(
            load_extractor(extractor.name, cache=tmp_path / "cache" / place).images(pictures), found
        )
    with pytest.raises(UserError, match="reads images only"):
        extractor.texts(["a bear"])


def test_pictures_are_cut_as_clip_cuts_them(tensors, tmp_path):
    """The shorter side to the tower's, bicubic, and the middle."""
    save_file(tensors, tmp_path / "csd.safetensors")
    extractor = load_extractor(f"csd:{tmp_path / 'csd.safetensors'}")
    wide = picture(4, (56, 28))
    middle = wide.resize((2 * SIDE, SIDE), 3).crop((SIDE // 2, 0, SIDE // 2 + SIDE, SIDE))
    assert torch.allclose(extractor.images([wide]), by_hand(tensors, [middle]), atol=1e-6)


class Evil:
    """Runs a program when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("place", ["iter", "model_state_dict", "args"])
def test_a_pickle_with_anything_else_in_it_is_refused_and_not_run(tensors, tmp_path, place):
    mark = tmp_path / "mark"
    harm = {"iter": Evil(mark), "model_state_dict": {"conv1.weight": Evil(mark)}}
    harm["args"] = argparse.Namespace(path=pathlib.PurePosixPath("x"))
    torch.save(checkpoint(tensors, **{place: harm[place]}), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        UserError, match="pytorch_model.bin is no checkpoint of CSD .it asks for (posix|pathlib)"
    ) as caught:
        load_extractor(f"csd:{tmp_path}")
    assert "\n" not in str(caught.value) and not mark.exists()


def test_a_plain_pickle_and_a_cut_file_are_refused(tensors, tmp_path):
    torch.save(tensors, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="is no checkpoint of CSD"):
        load_extractor(f"csd:{tmp_path / 'weights.pt'}")
    torch.save(checkpoint(tensors, model_state_dict=[1]), tmp_path / "list.pt")
    with pytest.raises(UserError, match="no tensors by name"):
        load_extractor(f"csd:{tmp_path / 'list.pt'}")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:5000])
    with pytest.raises(UserError, match="is no checkpoint") as caught:
        load_extractor(f"csd:{tmp_path / 'cut.pt'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change, line",
    [
        ({"backbone.transformer.resblocks.1.attn.in_proj_bias": None}, "lacks .*self_attn.k_proj.bias"),
        ({"backbone.ln_post.weight": None}, "lacks vision_model.post_layernorm.weight"),
        ({"last_layer_style": None}, "no CLIP image tower with last_layer_style"),
        ({"backbone.proj": torch.zeros(WIDTH, DIM)}, "has vision_model.proj, which are not CSD's"),
        ({"backbone.ln_pre.bias": torch.zeros(3)}, "do not fit together"),
        ({"backbone.conv1.weight": torch.zeros(100, 3, 7, 7)}, "no heads of 64"),
    ],
)
def test_another_set_of_tensors_is_refused(tensors, tmp_path, change, line):
    changed = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    save_file(changed, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=line) as caught:
        load_extractor(f"csd:{tmp_path}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "place, line",
    [
        ("no/such/folder", "no such file or folder"),
        ("", "no such file or folder"),
        ("owner/absent", "cannot be had from Hugging Face"),  # offline
    ],
)
def test_a_checkpoint_that_is_not_there(place, line):
    with pytest.raises(UserError, match=line):
        load_extractor(f"csd:{place}")


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="holds neither model.safetensors nor pytorch_model.bin"):
        load_extractor(f"csd:{tmp_path}")
