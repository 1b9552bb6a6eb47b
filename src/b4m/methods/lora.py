"""An ordinary LoRA from anywhere, put on the base model through peft."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backbones.protocol import Attached, Backbone
from ..config.training import TrainConfig
from ..core.errors import UserError
from ..files.lora import check_layers
from ..files.opening import Opened, refuse_method_files
from .denoising import one_dial
from .protocol import Pair, Task


class AttachedLora:
    """One dial for all of it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def arguments(self, content: float, style: float) -> dict[str, Any]:
        return {"scale": one_dial(content, style)}

    def remove(self) -> None:
        self.backbone.pipe.unload_lora_weights()


class Lora:
    """LoRA files that name no basis of ours."""

    name, doc = "lora", "an ordinary LoRA file"
    jobs: tuple[type[TrainConfig], ...] = ()
    triggers = True

    def task(self, config: TrainConfig) -> Task:
        raise UserError("method lora: reads LoRA files and trains none; joint at --ratio 0 --no-routing does")

    def files(self, pair: Pair) -> dict[str, Path]:
        raise UserError("method lora: trains nothing, so a study has no row for it; joint at ratio 0 does")

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        refuse_method_files(files)
        opened = files["lora"]
        # Diffusers would only warn of some.
        check_layers(opened.where, opened.layers, backbone.denoiser, backbone.name)
        backbone.pipe.load_lora_weights(
            {
                f"unet.{layer}.lora_{factor}.weight": tensor
                for layer, (up, down) in opened.layers.items()
                for factor, tensor in (("A", down), ("B", up))
            }
        )
        return AttachedLora(backbone)
