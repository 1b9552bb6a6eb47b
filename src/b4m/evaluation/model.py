"""What a kind of model brings to an Extractor (`extractors`): its network, and what goes in and comes out."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True)
class Model:
    """Each function takes a batch and gives a row for each item."""

    network: nn.Module
    prepare: Callable[[Image.Image], Tensor]  # -> (3, H, W)
    images: Callable[[Tensor], Tensor]  # (k, 3, H, W) -> (k, d)
    texts: Callable[[list[str]], Tensor] | None = None  # -> (k, d)
    logits: Callable[[Tensor], Tensor] | None = None  # (k, 3, H, W) -> (k, classes)
    labels: tuple[str, ...] = ()
    settings: str = ""  # everything but the weights that decides what comes out
