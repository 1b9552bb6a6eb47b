"""Images side by side keep their shape."""

import pytest
from PIL import Image

from b4m.sampling.grid import GAP, grid


@pytest.mark.parametrize("size", [(128, 128), (200, 128), (128, 200)])
def test_cells_have_the_shape_of_the_images(size):
    red, blue = (Image.new("RGB", size, colour) for colour in ("red", "blue"))
    red.paste("lime", (0, 0, 8, 8))
    sheet = grid([red, blue, blue, red], 2)
    width, height = size
    assert sheet.size == (2 * (width + GAP), 2 * (height + GAP))
    for column, row in ((0, 0), (1, 1)):
        left, top = column * (width + GAP), row * (height + GAP)
        assert sheet.crop((left, top, left + width, top + height)).tobytes() == red.tobytes()


def test_small_images_are_enlarged_in_their_own_shape():
    assert grid([Image.new("RGB", (16, 32))], 1).size == (128 + GAP, 256 + GAP)
