"""B-LoRA (Frenkel et al. 2024, arXiv 2403.14572): content and style are what two blocks of the UNet learn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backbones.protocol import Backbone
from ..config.training import LORA_FILE, ShowsContent, ShowsStyle
from ..core.errors import UserError
from ..files.lora import Layers
from .low_rank import DirectSumConfig, LoraLearner, LoraTask, LowRank, WritesLoras, install, kind_of
from .protocol import Pair

BLOCKS = {
    "content": "up_blocks.0.attentions.0",
    "style": "up_blocks.0.attentions.1",
}  # W4 and W5 of the paper
PUBLISHED = dict(steps=1000, lr=5e-5, layers="all", gradient_accumulation=1)


@dataclass(frozen=True, kw_only=True)
class BLora(LowRank):
    """Settings of a training of both blocks, of which one is kept. The paper shows a single image."""

    own_presets = {"sdxl": PUBLISHED, "embedded": dict(lr=9.6e-3, steps=200)}


@dataclass(frozen=True, kw_only=True)
class BLoraContentConfig(ShowsContent, BLora):
    """From a content's images; its block is kept."""

    stage, result, needs = "b-lora-content", LORA_FILE, ("content_dir",)


@dataclass(frozen=True, kw_only=True)
class BLoraStyleConfig(ShowsStyle, BLora):
    """From a style's images; its block is kept."""

    stage, result, needs = "b-lora-style", LORA_FILE, ("style_dir",)


class BLoraTask(LoraTask):
    """Both blocks learn from one concept: trained apart they do not separate content and style."""

    def start(self, backbone: Backbone) -> "BLoraLearner":
        check_blocks(backbone)
        adapter = install(backbone, self.config, tuple(BLOCKS.values()))
        return BLoraLearner(backbone, self.inputs, self.config, adapter)


class BLoraLearner(LoraLearner):
    """Keeps the block of its own kind."""

    made_by = "b-lora"

    def kept(self) -> Layers:
        block = f"{BLOCKS[kind_of(self.config)]}."
        return {name: pair for name, pair in super().kept().items() if name.startswith(block)}


def check_blocks(backbone: Backbone) -> None:
    """Raises UserError for a base model that lacks one of the blocks: nothing would be learned there."""
    names = list(backbone.denoiser.attn_processors)
    for kind, block in BLOCKS.items():
        if not any(name.startswith(f"{block}.") for name in names):
            raise UserError(
                f"base model {backbone.name}: has no attention in {block}, where B-LoRA learns the {kind}; "
                "give one built like Stable Diffusion XL"
            )


class BLoraMethod(WritesLoras):
    """The method: its two files are LoRAs of different blocks, so that their sum is their union."""

    name, doc = (
        "b-lora",
        "content and style in two blocks of the UNet, trained together and recombined (B-LoRA)",
    )
    jobs = (BLoraContentConfig, BLoraStyleConfig)

    def task(self, config: Any) -> BLoraTask:
        return BLoraTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(BLoraContentConfig), pair.train(BLoraStyleConfig)
        return {"lora_file": pair.train(DirectSumConfig, content_file=content, style_file=style)}
