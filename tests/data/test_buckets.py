"""Aspect-ratio buckets: an image keeps its own shape, of about as many pixels as the square."""

import pytest
import torch
from PIL import Image

from b4m.data.buckets import UNIT, bucket, shapes
from b4m.data.images import read_folder


def test_at_its_own_size_they_are_sdxls():
    found = shapes(1024)
    assert len(found) == len(set(found)) == 41 and found[0] == (1024, 1024)
    assert {(high, wide) for wide, high in found} == set(found)
    assert all(side % 64 == 0 for shape in found for side in shape)
    assert all(0.9 * 1024**2 < high * wide <= 1024**2 + 1 for high, wide in found)


@pytest.mark.parametrize("resolution", [512, 768, 1024])
def test_at_any_size_they_have_about_the_squares_pixels_and_pass_through_the_unet(resolution):
    assert shapes(resolution)[0] == (resolution, resolution)
    for high, wide in shapes(resolution):
        assert high % UNIT == wide % UNIT == 0
        assert 0.85 < high * wide / resolution**2 < 1.15


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (3000, 3000, (1024, 1024)),
        (2000, 3000, (832, 1216)),
        (3000, 2000, (1216, 832)),
        (1080, 1920, (768, 1344)),
        (1, 100_000, (512, 2048)),
        (1000, 1010, (1024, 1024)),
    ],
)
def test_the_closest_aspect_ratio_is_taken(height, width, expected):
    assert bucket(height, width, 1024) == expected


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_an_image_keeps_its_shape_and_nearly_all_of_its_pixels(tmp_path, fit):
    """A red frame, which a square would cut off, is there on all four sides."""
    image = Image.new("RGB", (300, 200), "red")
    image.paste("blue", (20, 20, 280, 180))
    image.save(tmp_path / "a.png")
    (found,) = read_folder(tmp_path, 64, fit, buckets=True).pictures
    assert found.pixels.shape == (3, 64, 96) and found.original_size == (200, 300)
    assert found.crop_top_left == (0, 0)
    red = torch.tensor([1.0, -1, -1])[:, None]
    for edge in (
        found.pixels[:, 2, 5:-5],
        found.pixels[:, -3, 5:-5],
        found.pixels[:, 5:-5, 2],
        found.pixels[:, 5:-5, -3],
    ):
        assert torch.allclose(edge, red.expand_as(edge), atol=0.1)


def test_the_mask_has_the_images_shape(tmp_path):
    image = Image.new("RGBA", (300, 200), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 150, 200))
    image.save(tmp_path / "a.png")
    (found,) = read_folder(tmp_path, 64, "crop", "mask", buckets=True).pictures
    assert found.mask.shape == (1, 64, 96)
    assert (found.mask[..., :44] == 0).all() and (found.mask[..., 52:] == 1).all()
