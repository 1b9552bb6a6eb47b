"""Settings of a sampling job: what decides an image, and `b4m generate`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.errors import UserError
from .fields import InputPath, ModelName, OutputPath, Size, check, flag, setting
from .presets import MODEL, SDXL

ANY_LORA = "a fused file of the second stage, or any other LoRA file or folder"
STRICT = "refuse a LoRA file of which not everything can be used"
LCM_STEPS = 50  # that latent consistency models were distilled on (Luo et al. 2023)


@dataclass(frozen=True, kw_only=True)
class DrawnWith:
    """What decides an image besides its prompt and seed."""

    preset_rows: ClassVar[tuple[str, ...]] = ("generate",)

    base_model: ModelName = setting(f"the model the files were made for: {MODEL}", SDXL)
    vae: ModelName | None = setting(f"an autoencoder that replaces the base model's: {MODEL}", None)
    content_file: InputPath | None = setting("a content file; with a style file the two are composed", None)
    style_file: InputPath | None = setting("a style file; with a content file the two are composed", None)
    lora_file: InputPath | None = setting(ANY_LORA, None)
    more_files: tuple[InputPath, ...] = setting("further concepts and LoRAs, of either kind", ())
    more_strengths: tuple[float, ...] = setting(
        "a dial for each of --more-files (default: 1)", (), low=-100, high=100
    )
    base_lora: InputPath | None = setting(
        "a LoRA that makes the base model another before any other file is put on: LCM, Lightning, Hyper and the like",
        None,
    )
    strict: bool = setting(STRICT, False, affects_result=False)
    negative_prompt: str | None = setting("negative prompt", None)
    steps: int = setting("denoising steps", 25, low=1, high=1000)
    scheduler: str = setting(
        "how a step is taken: Euler's way (Turbo, Lightning and Hyper too), or latent consistency models' (LCM, DMD2)",
        "euler",
        choices=("euler", "lcm"),
    )
    guidance: float = setting("classifier-free guidance scale", 5.0, low=0, high=1000)
    negative: str = setting(
        "what guidance leads away from: the model with the files on it, or the base model without them",
        "adapted",
        choices=("adapted", "base"),
    )
    compose: str = setting(
        "how content and style come together: in the weights, or as a sum of predictions (two more a step)",
        "weights",
        choices=("weights", "predictions"),
    )
    size: Size = setting("pixels of a side, or width and height as in 1216x832", 1024, low=8, high=8192)
    content_strength: float = setting("dial of the content: 0 none, 1 as trained", 1.0, low=-100, high=100)
    style_strength: float = setting("dial of the style: 0 none, 1 as trained", 1.0, low=-100, high=100)
    mixed_precision: str = setting(
        "precision of the model; the autoencoder always runs in float32", "no", choices=("no", "bf16", "fp16")
    )

    def __post_init__(self) -> None:
        check(self)
        one_source(self)
        self._check_more()
        if self.scheduler == "lcm" and self.steps > LCM_STEPS:
            raise UserError(
                f"--steps {self.steps}: --scheduler lcm takes {LCM_STEPS} at most; 4 to 8 are usual"
            )

    def _check_more(self) -> None:
        files, strengths = len(self.more_files), len(self.more_strengths)
        if files and not (self.content_file or self.style_file):
            raise UserError("--more-files goes beside --content-file or --style-file: give one of them first")
        if strengths not in (0, files):
            raise UserError(
                f"--more-strengths: {strengths} for {files} --more-files; give one for each, or none"
            )


def one_source(config: Any) -> None:
    """Raise UserError for settings with a LoRA file beside concept files."""
    if config.lora_file and (config.content_file or config.style_file):
        raise UserError(
            "--lora-file goes without --content-file and --style-file: it already holds a content and a style"
        )


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(DrawnWith):
    """Settings of one sampling job: every prompt is drawn with every seed."""

    output_dir: OutputPath = setting("folder for the images", "outputs/images")
    prompts: tuple[str, ...] = setting("what to draw, one or more prompts", ())
    seeds: tuple[int, ...] = setting(
        "one image per seed and prompt; 0..31 is a range of them", (77,), low=0, high=2**63 - 1
    )
    grid: bool = setting("also write grid.png: prompts down, seeds across", False, affects_result=False)
    overwrite: bool = setting(
        "start at image 000 again, over what is there; without it the numbers go on",
        False,
        affects_result=False,
    )
    best: int | None = setting(
        "keep so many images of each prompt: those that come closest to the references given", None, low=1
    )
    content_dir: InputPath | None = setting(
        "for --best: images of the content to compare with, a folder, one file or a data set",
        None,
        affects_result=False,
    )
    style_dir: InputPath | None = setting(
        "for --best: images of the style to compare with, a folder, one file or a data set",
        None,
        affects_result=False,
    )
    content_extractor: str | None = setting(
        "for --best: model of content alignment (default: as b4m evaluate has it)", None, affects_result=False
    )
    style_extractor: str | None = setting(
        "for --best: model of style alignment (default: as b4m evaluate has it)", None, affects_result=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompts:
            raise UserError(
                "--prompts is missing: say what to draw, for example --prompts 'a photo of snq bear'"
            )
        if not self.seeds:
            raise UserError("--seeds is empty: give at least one number")
        self._check_best()

    def _check_best(self) -> None:
        given = [
            name
            for name in ("content_dir", "style_dir", "content_extractor", "style_extractor")
            if getattr(self, name)
        ]
        if self.best is None:
            if given:
                raise UserError(f"{flag(given[0])} goes with --best: without it nothing is compared")
            return
        if not self.content_dir and not self.style_dir:
            raise UserError("--best needs --content-dir, --style-dir or both: images are compared with them")
        if self.best > len(self.seeds):
            raise UserError(
                f"--best {self.best} of {len(self.seeds)} seeds: give more, as in --seeds 0..{8 * self.best - 1}"
            )
