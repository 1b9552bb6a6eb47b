"""Settings of `b4m export` and `b4m split`: between concept files and LoRA files, and into a whole UNet."""

from dataclasses import dataclass
from typing import ClassVar

from ..config.fields import InputPath, ModelName, OutputPath, check, setting
from ..config.presets import SDXL
from ..config.sampling import ANY_LORA, STRICT, one_source
from ..core.errors import UserError
from .dialects import DIALECTS


@dataclass(frozen=True)
class ExportConfig:
    """Settings of one export: concept files or a LoRA file to an ordinary LoRA file, or to a merged UNet."""

    preset_rows: ClassVar[tuple[str, ...]] = ("generate",)

    output: OutputPath = setting("file to write, ending in .safetensors; with --merge a new folder")
    base_model: ModelName = setting(
        "the model the files were made for (only --merge reads its weights)", SDXL
    )
    content_file: InputPath | None = setting("a content file", None)
    style_file: InputPath | None = setting("a style file", None)
    lora_file: InputPath | None = setting(ANY_LORA, None)
    content_strength: float = setting("dial of the content, folded into the file", 1.0, low=-100, high=100)
    style_strength: float = setting("dial of the style, folded into the file", 1.0, low=-100, high=100)
    dtype: str = setting("number format of the file", "fp16", choices=("fp32", "fp16", "bf16"))
    dialect: str = setting(
        "how the file's keys are spelled: diffusers for Diffusers, kohya or kohya-original for A1111 and ComfyUI",
        "diffusers",
        choices=tuple(DIALECTS),
    )
    strict: bool = setting(STRICT, False, affects_result=False)
    merge: bool = setting("write the whole UNet with the LoRA merged into it, as a Diffusers folder", False)

    def __post_init__(self) -> None:
        check(self)
        if self.merge and self.dialect != "diffusers":
            raise UserError(f"--dialect {self.dialect}: --merge writes a whole UNet, always for Diffusers")
        if self.merge and self.output.endswith(".safetensors"):
            raise UserError(f"--output {self.output}: --merge writes a folder; leave out .safetensors")
        if not self.merge and not self.output.endswith(".safetensors"):
            raise UserError(f"--output {self.output}: the name must end in .safetensors")
        one_source(self)
        if not (self.lora_file or self.content_file or self.style_file):
            raise UserError("nothing to export: give --content-file and --style-file, or --lora-file")


@dataclass(frozen=True)
class SplitConfig:
    """Settings of one split: a fused LoRA file back to its content and its style."""

    lora_file: InputPath = setting("a LoRA file whose content and style share one basis, in any dialect")
    output_dir: OutputPath = setting("folder for content.safetensors and style.safetensors", "outputs/split")
    like: InputPath | None = setting(
        "a concept file of the same basis and base model, for a LoRA file whose header lost them", None
    )

    def __post_init__(self) -> None:
        check(self)
