"""Settings of `b4m evaluate` and `b4m inspect`."""

from dataclasses import dataclass

from ..config.fields import InputPath, ModelName, OutputPath, check, flag, setting
from ..config.presets import PRESETS
from ..config.sampling import DrawnWith
from ..core.errors import UserError

CSD = "csd:"  # before the place of a checkpoint of Contrastive Style Descriptors
CSD_NAME = "tomg-group-umd/CSD-ViT-L"  # the published one
REFERENCES = "references whose noised copies are looked at (default: images that the base model draws)"
PROMPTS = "what calls the two together (default: the prompts in the files, as one)"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(DrawnWith):
    """Settings of one evaluation: a folder of images with a manifest, or files to draw images with first."""

    preset_rows = ("evaluate",)  # over those of drawing

    pictures: InputPath | None = setting(
        "folder of images with a manifest.jsonl; nothing is drawn then", None
    )
    output_dir: OutputPath = setting(
        "folder for tables, plot, sheet, cached features and drawn pictures", "outputs/evaluation"
    )
    content_dir: InputPath | None = setting(
        "images of the content to compare with: a folder, one file or a data set", None
    )
    style_dir: InputPath | None = setting(
        "images of the style to compare with: a folder, one file or a data set", None
    )
    prompts: tuple[str, ...] = setting("what to draw, one or more prompts", ())
    seeds: tuple[int, ...] = setting("one image per seed and prompt", tuple(range(10)), low=0, high=2**63 - 1)
    baseline: str | None = setting("row of the manifest that the other rows are compared with", None)
    content_extractor: str = setting(
        "model of content alignment (paper: DINOv2): folder, Hugging Face name or open_clip:ARCHITECTURE:WEIGHTS",
        PRESETS["sdxl"]["evaluate"]["content_extractor"],
    )
    style_extractor: str = setting(
        "model of style alignment (paper: CLIP), written likewise",
        PRESETS["sdxl"]["evaluate"]["style_extractor"],
    )
    prompt_extractor: str = setting(
        "model of prompt alignment (CLIP), written likewise", PRESETS["sdxl"]["evaluate"]["prompt_extractor"]
    )
    csd_extractor: str | None = setting(
        "model of a second style alignment, csd:PLACE: file, folder or Hugging Face name of a CSD checkpoint",
        None,
    )
    content_judge: str | None = setting(
        "image classifier that names contents, for manifests with labels", None
    )
    style_judge: str | None = setting("image classifier that names styles, for manifests with labels", None)
    background_judge: str | None = setting(
        "image classifier that names backgrounds, for labels and leaks", None
    )
    colour_judge: str | None = setting(
        "image classifier that names the main colour of what is shown, for labels and leaks", None
    )

    vlm: ModelName | None = setting(
        "vision-language model that is asked yes or no of every image: folder or Hugging Face name", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.csd_extractor and not self.csd_extractor.startswith(CSD):
            raise UserError(f"--csd-extractor {self.csd_extractor}: write csd:PLACE, as csd:{CSD_NAME}")
        files = [name for name in ("content_file", "style_file", "lora_file") if getattr(self, name)]
        if self.pictures:
            if given := [*files, *(["prompts"] if self.prompts else [])]:
                raise UserError(f"--pictures goes without {flag(given[0])}: these images are drawn already")
            return
        if not files:
            raise UserError(
                "nothing to score: give --pictures, or --content-file and --style-file, or --lora-file"
            )
        for name in ("prompts", "seeds", "content_dir", "style_dir"):
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: images are drawn and compared with it")
        if len(set(self.prompts)) < len(self.prompts) or len(set(self.seeds)) < len(self.seeds):
            raise UserError("--prompts and --seeds: each may stand there once")


@dataclass(frozen=True)
class InspectConfig:
    """Settings of one inspection. Raises UserError for a value that cannot work."""

    file: InputPath = setting(
        "a content file, a style file, a fused file of the second stage, any other LoRA file, or a method's file"
    )
    output: OutputPath = setting("folder for inspection.json and inspection.png", "outputs/inspection")
    style_file: InputPath | None = setting(
        "a style file, or a LoRA of one: FILE is the content that it is composed with", None
    )
    base_model: ModelName | None = setting(
        "the model a content or style was made for (only its layer sizes are read; default: the one the file names)",
        None,
    )
    interference: bool = setting(
        "measure instead how far the content FILE and the style STYLE_FILE move predictions, and disturb each other",
        False,
    )
    content_dir: InputPath | None = setting(REFERENCES, None)
    prompts: tuple[str, ...] = setting(PROMPTS, ())

    def __post_init__(self) -> None:
        check(self)
        if self.interference and self.style_file is None:
            raise UserError("--interference needs two files: b4m inspect --interference CONTENT STYLE")
        if not self.interference and (self.content_dir or self.prompts):
            raise UserError("--content-dir and --prompts go with --interference")


@dataclass(frozen=True)
class BalanceConfig:
    """Settings of `b4m balance`. Raises UserError for a value that cannot work."""

    content_file: InputPath = setting("a content file, or a LoRA of one")
    style_file: InputPath = setting("a style file, or a LoRA, that composes with it")
    base_model: ModelName | None = setting(
        "the model they were made for (default: the one that the content names)", None
    )
    content_dir: InputPath | None = setting(REFERENCES, None)
    prompts: tuple[str, ...] = setting(PROMPTS, ())
    bound: float | None = setting(
        "let neither move predictions by more than this share of their power (default: both equally far)",
        None,
        low=1e-4,
        high=100,
    )
    output: OutputPath | None = setting(
        "YAML file for the two strengths, which b4m generate --config reads", None
    )

    def __post_init__(self) -> None:
        check(self)
