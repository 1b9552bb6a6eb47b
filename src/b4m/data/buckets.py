"""Aspect-ratio buckets: an image keeps a shape near its own, of about as many pixels as the square."""

from functools import cache
from math import log

# Height and width of SDXL's own training images, the wide half (Podell et al. 2023, Appendix I).
WIDE = (
    *((512, width) for width in (2048, 1984, 1920, 1856)),
    *((576, width) for width in (1792, 1728, 1664)),
    *((640, width) for width in (1600, 1536)),
    *((704, width) for width in (1472, 1408, 1344)),
    *((768, width) for width in (1344, 1280)),
    *((832, width) for width in (1216, 1152)),
    *((896, width) for width in (1152, 1088)),
    *((960, width) for width in (1088, 1024)),
    (1024, 1024),
)
SIDE = 1024  # pixels of the square among them
UNIT = 32  # pixels: SDXL's UNet halves latents of 8 pixels twice


@cache
def shapes(resolution: int) -> tuple[tuple[int, int], ...]:
    """All buckets (height, width) in pixels, SDXL's scaled to `resolution`; the square comes first."""
    scaled = {(_scaled(high, resolution), _scaled(wide, resolution)) for high, wide in WIDE}
    square = (resolution, resolution)
    return (square, *sorted((scaled | {(wide, high) for high, wide in scaled}) - {square}))


def bucket(height: int, width: int, resolution: int) -> tuple[int, int]:
    """The shape (height, width) whose aspect ratio is closest to that of an image."""
    ratio = log(width / height)
    return min(shapes(resolution), key=lambda shape: abs(log(shape[1] / shape[0]) - ratio))


def _scaled(side: int, resolution: int) -> int:
    return max(1, round(side * resolution / SIDE / UNIT)) * UNIT
