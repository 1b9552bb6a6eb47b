"""Transparent parts may be left out of the loss: the mask is cut as the image is, and padding is no image."""

import pytest
import torch
from conftest import picture, refused
from PIL import Image
from samples import RED

from b4m.backbones.cache import encode
from b4m.backbones.registry import open_backbone
from b4m.data.images import ON_WHITE, load_folder, read_folder
from b4m.data.inputs import Group, read_inputs


def half(width=32, height=16) -> Image.Image:
    """Left half transparent."""
    image = Image.new("RGBA", (width, height), (*RED, 255))
    image.paste((*RED, 0), (0, 0, width // 2, height))
    return image


def masks(path, fit="crop") -> list[torch.Tensor | None]:
    return [image.mask for image in read_folder(path, 16, fit, "mask").pictures]


def test_the_mask_is_cut_as_the_image_is(tmp_path):
    half().save(tmp_path / "a.png")
    half().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png")
    left, bottom = masks(tmp_path)
    assert left.shape == (1, 16, 16) and left.dtype == torch.float32
    assert (left[..., :7] == 0).all() and (left[..., 9:] == 1).all()
    assert torch.equal(bottom, left.transpose(1, 2).flip(1))


def test_padding_is_left_out_too(tmp_path):
    half().save(tmp_path / "a.png")
    Image.new("RGB", (32, 16), RED).save(tmp_path / "b.png")
    part, whole = masks(tmp_path, "pad")
    assert (whole[:, 4:12] == 1).all() and (whole[:, :4] == 0).all() and (whole[:, 12:] == 0).all()
    assert (part[:, 4:12, 9:] > 0.99).all() and part.sum() < whole.sum()


def test_pixels_are_the_same_with_a_mask_and_without(tmp_path):
    half().save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    (plain, _), (masked, opaque) = (
        load_folder(tmp_path, 16),
        read_folder(tmp_path, 16, "crop", "mask").pictures,
    )
    assert torch.equal(plain.pixels, masked.pixels) and plain.mask is None and opaque.mask is None


def test_on_white_it_is_said(tmp_path):
    half().save(tmp_path / "a.png")
    Image.new("RGBA", (16, 16), (*RED, 255)).save(tmp_path / "b.png")  # could be transparent, and is not
    (finding,) = read_folder(tmp_path, 16).findings
    assert finding.file.name == "a.png" and finding.what == ON_WHITE and "--alpha mask" in ON_WHITE
    assert not read_folder(tmp_path, 16, "crop", "mask").findings


def test_a_cut_that_leaves_nothing_to_see_is_refused(tmp_path):
    image = Image.new("RGBA", (64, 16), (*RED, 0))
    image.paste((*RED, 255), (0, 0, 8, 16))
    image.save(tmp_path / "a.png")
    refused(lambda: masks(tmp_path), tmp_path / "a.png", "--fit pad")
    assert len(masks(tmp_path, "pad")) == 1


@pytest.mark.parametrize("names", ["ab", "b"])
def test_the_cache_has_the_share_of_each_latent(tiny_base, tmp_path, names):
    half(16, 16).save(tmp_path / "a.png")
    picture(1).save(tmp_path / "b.png")
    paths = [str(tmp_path / f"{name}.png") for name in names]
    inputs = read_inputs([Group("content", paths, "a bear")], 16, "crop", "mask")
    cache = encode(open_backbone(tiny_base), inputs.images, inputs.prompts)
    if names == "b":
        assert cache.masks is None
        return
    first, second = cache.masks
    assert first.shape == second.shape == (1, *cache.latents[0].shape[1:]) and (second == 1).all()
    assert (first[..., :4] == 0).all() and (first[..., 4:] == 1).all()
