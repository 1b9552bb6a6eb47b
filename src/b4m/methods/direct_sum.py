"""Direct sum (Eq. 3): a content's LoRA and a style's LoRA, trained apart, added with two weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.training import LORA_FILE
from .low_rank import (
    DirectSumConfig,
    LoraContentConfig,
    LoraStyleConfig,
    WritesLoras,
    check_both,
    learned_in,
    open_both,
    save_ordinary,
    side_by_side,
    unopened_base,
    words_in,
)
from .protocol import Pair


class Sum:
    """The assembly: one LoRA, whose ranks are those of both together."""

    def __init__(self, config: DirectSumConfig) -> None:
        self.config, self.loras = config, open_both(config)

    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        denoiser, base = unopened_base(self.config.base_model)
        check_both(self.loras, denoiser, self.config.base_model)
        weights = {kind: getattr(self.config, f"{kind}_weight") for kind in self.loras}
        layers = side_by_side([(weights[kind], opened.layers) for kind, opened in self.loras.items()])
        told = {f"{kind}_weight": str(weight) for kind, weight in weights.items()}
        metadata = {**facts, **words_in(self.loras), **told}
        save_ordinary(folder / LORA_FILE, layers, base, metadata, "direct-sum", learned_in(self.loras))


class DirectSum(WritesLoras):
    """What a merging method must beat."""

    name, doc = "direct-sum", "two ordinary LoRAs, trained apart and added"
    jobs = (DirectSumConfig,)

    def task(self, config: Any) -> Sum:
        return Sum(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(LoraContentConfig), pair.train(LoraStyleConfig)
        return {"lora_file": pair.train(DirectSumConfig, content_file=content, style_file=style)}
