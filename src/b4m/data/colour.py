"""Colours as every screen shows them: any ICC profile -> sRGB, by littleCMS.

Pillow hands it eight bits of a colour alone. Of sixteen bits the matrix and the curves of a profile are followed here:
in eight, the shadows of a linear image would have a few steps only.
"""

import io
import struct
from functools import cache

import numpy as np
from PIL import Image, ImageCms

SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}  # of a profile: the mode that it describes
MAX_PROFILE = 2**25  # bytes: more than the largest of a printing press
EXACT = ImageCms.Flags.NOOPTIMIZE  # what littleCMS precomputes is too coarse for sixteen bits
DEEPEST = 65_535  # white of sixteen bits
STRIP = 256  # rows at a time
MAX_TAGS = 100
D50 = (0.9642, 1.0, 0.8249)
RGB = (b"r", b"g", b"b")
LINEAR = b"curv" + bytes(8)  # the curve that is none
PRIMARIES = {  # adapted to D50
    9: ((0.67346, 0.27904, -0.00194), (0.16566, 0.67534, 0.02998), (0.12505, 0.04561, 0.79684)),  # BT.2020
    12: ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1572, 0.0666, 0.7841)),  # Display P3
}
BROKEN = (ImageCms.PyCMSError, KeyError, OSError, ValueError, TypeError, struct.error, np.linalg.LinAlgError)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image in 8-bit sRGB, without its transparency; None where the profile is broken or fits no such image.

    Perceptual, as viewers do. An image that its profile moves by no more than rounding does is left as it is.
    """
    if len(profile) > MAX_PROFILE:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = SPACES[source.profile.xcolor_space.strip()]
        pixels = _as_mode(image, mode)
        if mode == "RGB" and _is_srgb(source):
            return pixels
        return _transform(source, pixels.mode).apply(pixels)
    except BROKEN:
        return None


def to_rgb(image: Image.Image) -> Image.Image:
    """An image without a profile in 8-bit RGB, without its transparency."""
    if image.mode == "I;16":
        # Pillow's own conversion clips at 255, which makes nearly every such image white.
        levels = np.asarray(image).astype(np.float64) / 257.0
        image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    return image.convert("RGB")


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image as its profile sees it. ValueError for colours that the profile knows nothing of."""
    if image.mode == mode or (mode, image.mode) == ("L", "I;16"):
        return image
    if {mode, image.mode} & {"CMYK", "LAB"}:
        raise ValueError(f"a profile of {mode} for an image of {image.mode}")
    rgb = to_rgb(image)
    if mode == "RGB":
        return rgb
    red, green, blue = rgb.split()
    if red.tobytes() != green.tobytes() or red.tobytes() != blue.tobytes():
        raise ValueError("a profile of gray for an image in colours")
    return red


def _transform(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    flags = EXACT if mode == "I;16" else ImageCms.Flags.NONE
    return ImageCms.buildTransform(source, _srgb(), mode, "RGB", flags=flags)


def _is_srgb(source: ImageCms.ImageCmsProfile) -> bool:
    probe = _probe()
    moved = np.asarray(_transform(source, "RGB").apply(probe), dtype=int) - np.asarray(probe, dtype=int)
    return bool(np.abs(moved).max() <= 1)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@cache
def _probe() -> Image.Image:
    """Colours all over the cube: 17 levels of each channel."""
    levels = np.linspace(0, 255, 17).round().astype(np.uint8)
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(17 * 17, 17, 3))


# Sixteen bits


def deep_to_srgb(levels: np.ndarray, profile: bytes) -> Image.Image | None:
    """Levels (h, w, 3) uint16 -> 8-bit sRGB; None where the profile has no matrix and curves, or has tables besides."""
    try:
        tags = _tags(profile)
        if b"A2B0" in tags:
            return None
        light = [_light(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        matrix = (np.linalg.inv(_columns(_srgb())) @ _columns(source)).astype(np.float32)
    except BROKEN:
        return None
    out = np.empty(levels.shape, dtype=np.uint8)
    for start in range(0, len(levels), STRIP):
        rows = levels[start : start + STRIP]
        linear = np.stack([light[c][rows[..., c]] for c in range(3)], -1) @ matrix.T
        out[start : start + STRIP] = _encoding()[np.rint(linear.clip(0, 1) * DEEPEST).astype(np.uint16)]
    return Image.fromarray(out)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    """The parts of a profile by their names."""
    (count,) = struct.unpack_from(">I", profile, 128)
    places = (struct.unpack_from(">4sII", profile, 132 + 12 * index) for index in range(min(count, MAX_TAGS)))
    return {name: profile[start : start + size] for name, start, size in places}


def _columns(profile: ImageCms.ImageCmsProfile) -> np.ndarray:
    """(3, 3): XYZ of full red, green and blue."""
    found = [getattr(profile.profile, f"{name}_colorant") for name in ("red", "green", "blue")]
    return np.array([xyz for xyz, _ in found]).T  # TypeError where the profile does not say


def _light(curve: bytes) -> np.ndarray:
    """(65536,) float32: how much light each level is, by littleCMS, to which it is a curve of gray."""
    gray, linear = (
        ImageCms.ImageCmsProfile(io.BytesIO(_profile(b"GRAY", {b"kTRC": each}))) for each in (curve, LINEAR)
    )
    ramp = Image.fromarray(np.arange(DEEPEST + 1, dtype=np.uint16)[None])
    made = ImageCms.buildTransform(gray, linear, "I;16", "I;16", flags=EXACT).apply(ramp)
    return np.asarray(made)[0] / np.float32(DEEPEST)


@cache
def _encoding() -> np.ndarray:
    """(65536,) uint8: sRGB's level for each amount of light."""
    x = np.linspace(0, 1, DEEPEST + 1)
    encoded = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.rint(encoded * 255).astype(np.uint8)


# Colours by number (ITU-T H.273), as AVIF, HEIC and PNG files may have them in place of a profile


def coded(primaries: int, transfer: int) -> bytes | None:
    """The ICC profile of what the numbers mean; None for sRGB, and for what no profile describes."""
    columns, curve = PRIMARIES.get(primaries), TRANSFERS.get(transfer)
    if columns is None or curve is None:
        return None
    tags = {name + b"XYZ": _xyz(column) for name, column in zip(RGB, columns, strict=True)}
    return _profile(b"RGB ", {**tags, **{name + b"TRC": curve for name in RGB}})


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """The bytes of an ICC profile."""
    tags = {b"wtpt": _xyz(D50), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x04200000, b"mntr", space, b"XYZ ", b"acsp")
    return (head + _xyz(D50)[8:]).ljust(128, b"\0") + table + body


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(*values)


def _numbers(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 2**16) for value in values))


def _formula(power: float, a: float, b: float, c: float, d: float) -> bytes:
    """Light is (a x + b)^power from d on, c x below."""
    return b"para" + struct.pack(">4xH2x", 3) + _numbers(power, a, b, c, d)


_BT709 = _formula(1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
TRANSFERS = dict.fromkeys((1, 6, 14, 15), _BT709) | {
    4: b"curv" + struct.pack(">4xIH", 1, round(2.2 * 2**8)) + bytes(2),
    8: LINEAR,
    13: _formula(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
}
HDR = (16, 18)  # transfers that are brighter than a screen's white
