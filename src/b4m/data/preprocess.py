"""Pictures as a vision model wants them: what its preprocessor_config.json says, done with Pillow and torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import UserError


@dataclass(frozen=True)
class Preprocess:
    """The steps of the CLIP, BiT (DINOv2), ViT and ConvNeXt (ResNet) image processors, in their order."""

    size: tuple[int, int] | int | None  # (h, w) of the whole picture, or its short side; None leaves it
    crop: tuple[int, int] | None  # (h, w) cut out of the middle
    resample: int  # Pillow's number: 2 bilinear, 3 bicubic
    scale: float  # levels 0..255 to numbers
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Image.Image) -> Tensor:
        """A picture -> (3, H, W) float32."""
        picture = picture.convert("RGB")
        if self.size is not None:
            picture = picture.resize(self._target(picture), Image.Resampling(self.resample))
        if self.crop is not None:
            height, width = self.crop
            top, left = (picture.height - height) // 2, (picture.width - width) // 2
            picture = picture.crop((left, top, left + width, top + height))  # black where it is too small
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) * np.float32(self.scale))
        return ((pixels - torch.tensor(self.mean)) / torch.tensor(self.std)).permute(2, 0, 1)

    def _target(self, picture: Image.Image) -> tuple[int, int]:
        """(w, h) after resizing."""
        if isinstance(self.size, tuple):
            return self.size[1], self.size[0]
        short = min(picture.size)
        width, height = (
            self.size if side == short else int(self.size * side / short) for side in picture.size
        )
        return width, height


def read_preprocess(where: str, values: dict[str, Any]) -> Preprocess:
    """The content of a preprocessor_config.json. Raises UserError, led by `where`, for what it lacks."""
    try:
        resize, pad = values.get("do_resize", True), values.get("do_pad", False)
        cut = values.get("do_center_crop", "crop_size" in values)
        size, crop = values.get("size"), values["crop_size"] if cut else None
        size = _side(size, whole=not cut and "crop_pct" not in values) if resize and size else None
        crop = _side(crop, whole=True) if cut else None
        if values.get("crop_pct") and isinstance(size, int):  # ConvNeXt's rule, which ResNets use
            size, crop = (
                (int(size / values["crop_pct"]), (size, size)) if size < 384 else ((size, size), None)
            )
        normalize = values.get("do_normalize", True)
        if pad or (resize and size is None):
            raise ValueError("it pads pictures" if pad else "it has no size")
        return Preprocess(
            size,
            crop,
            int(values["resample"]) if resize else 3,
            float(values.get("rescale_factor", 1 / 255)) if values.get("do_rescale", True) else 1.0,
            tuple(map(float, values["image_mean"])) if normalize else (0.0, 0.0, 0.0),
            tuple(map(float, values["image_std"])) if normalize else (1.0, 1.0, 1.0),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where}: its preprocessor_config.json cannot be followed ({type(error).__name__}: {error}); "
            "it needs size, resample, image_mean and image_std"
        ) from error


def _side(value: Any, whole: bool) -> tuple[int, int] | int:
    """{"height", "width"} -> (h, w); {"shortest_edge"} -> a number; a number: `whole` says which is meant."""
    if isinstance(value, dict):
        if set(value) == {"shortest_edge"}:
            return int(value["shortest_edge"])
        if set(value) == {"height", "width"}:
            return int(value["height"]), int(value["width"])
        raise ValueError(f"size {value}")
    return (int(value), int(value)) if whole else int(value)
