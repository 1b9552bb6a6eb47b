"""Draw the world for its page: every style family across, every third class down, members at random.

python examples/world/gallery.py examples/world/world.webp
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from world.contents import CLASSES
from world.scenes import render, sample_scene
from world.styles import FAMILIES

SIZE = 96  # pixels of an image


def gallery(contents: list[str], families: list[str], seed: int = 7) -> Image.Image:
    """An image of every content in every family, all else drawn at random from `seed`."""
    rng = np.random.default_rng(seed)
    rows = [
        [render(sample_scene(rng, contents=(content,), families=(family,)), SIZE) for family in families]
        for content in contents
    ]
    return Image.fromarray(np.concatenate([np.concatenate(row, 1) for row in rows], 0))


if __name__ == "__main__":
    gallery(list(CLASSES)[::3], list(FAMILIES)).save(sys.argv[1], quality=80, method=6)
