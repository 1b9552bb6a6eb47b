"""Settings of what measures: `b4m evaluate`, `b4m study`, `b4m inspect`, `b4m bench`."""

from dataclasses import dataclass
from pathlib import Path

from .config import PRESETS, SDXL, one_source
from .errors import UserError
from .fields import check, flag, setting

FOLDER = Path("examples/configs/studies")  # of the shipped studies


@dataclass(frozen=True)
class EvaluateConfig:
    """Settings of one evaluation: a folder of pictures with a manifest, or files to draw pictures with first."""

    pictures: str | None = setting("folder of pictures with a manifest.jsonl; nothing is drawn then", None)
    output_dir: str = setting(
        "folder for tables, plot, sheet, cached features and drawn pictures", "outputs/evaluation"
    )
    content_file: str | None = setting(
        "a content file to draw with; with a style file the two are composed", None
    )
    style_file: str | None = setting("a style file to draw with", None)
    lora_file: str | None = setting(
        "a fused file of the second stage, or any other LoRA file, to draw with", None
    )
    content_dir: str | None = setting("pictures of the content to compare with: a folder or one file", None)
    style_dir: str | None = setting("pictures of the style to compare with: a folder or one file", None)
    prompts: tuple[str, ...] = setting("what to draw, one or more prompts", ())
    seeds: tuple[int, ...] = setting(
        "one picture per seed and prompt", tuple(range(10)), low=0, high=2**63 - 1
    )
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
    base_model: str = setting("the model the files were made for: a folder or a Hugging Face name", SDXL)
    vae: str | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    negative_prompt: str | None = setting("what to keep out", None)
    steps: int = setting("denoising steps (Euler)", 25, low=1, high=1000)
    guidance: float = setting("how strictly the prompt is followed", 5.0, low=0, high=1000)
    size: int = setting("side of the pictures in pixels", 1024, low=8, high=8192)
    content_strength: float = setting("dial of the content: 0 none, 1 as trained", 1.0, low=-100, high=100)
    style_strength: float = setting("dial of the style: 0 none, 1 as trained", 1.0, low=-100, high=100)
    mixed_precision: str = setting(
        "precision of the model; the autoencoder always runs in float32", "no", choices=("no", "bf16", "fp16")
    )

    def __post_init__(self) -> None:
        check(self)
        files = [name for name in ("content_file", "style_file", "lora_file") if getattr(self, name)]
        if self.pictures:
            if given := [*files, *(["prompts"] if self.prompts else [])]:
                raise UserError(f"--pictures goes without {flag(given[0])}: these pictures are drawn already")
            return
        if not files:
            raise UserError(
                "nothing to score: give --pictures, or --content-file and --style-file, or --lora-file"
            )
        one_source(self)
        for name in ("prompts", "seeds", "content_dir", "style_dir"):
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: pictures are drawn and compared with it")
        if len(set(self.prompts)) < len(self.prompts) or len(set(self.seeds)) < len(self.seeds):
            raise UserError("--prompts and --seeds: each may stand there once")


@dataclass(frozen=True)
class StudyConfig:
    """Settings of one run of a study. Raises UserError for a study that is not there."""

    study: str = setting(f"a study's YAML file, or the name of one in {FOLDER}")
    subjects: str | None = setting(
        "YAML file with the contents, styles, prompts and base model to run it on (default: the study's own)",
        None,
    )
    output_dir: str = setting(
        "folder for trainings and pictures, which studies share, and results", "outputs/studies"
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.path.exists():
            known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml"))) or "none here"
            raise UserError(f"study {self.study}: no such file, nor one of {FOLDER} ({known})")

    @property
    def name(self) -> str:
        """Of the folder of results: the study's, and that of the subjects it is run on instead of its own."""
        return "-".join(Path(file).stem for file in (self.study, self.subjects) if file)

    @property
    def command(self) -> str:
        """What runs this study again."""
        return f"b4m study {self.study}" + (f" --subjects {self.subjects}" if self.subjects else "")

    @property
    def path(self) -> Path:
        named = FOLDER / f"{self.study}.yaml"
        return named if named.exists() else Path(self.study)


@dataclass(frozen=True)
class InspectConfig:
    """Settings of one inspection. Raises UserError for a value that cannot work."""

    file: str = setting(
        "a content file, a style file, a fused file of the second stage, or any other LoRA file"
    )
    output: str = setting("folder for inspection.json and inspection.png", "outputs/inspection")
    style_file: str | None = setting("a style file: FILE is the content that it is composed with", None)
    base_model: str | None = setting(
        "the model a content or style was made for (only its layer sizes are read; default: the one the file names)",
        None,
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class BenchConfig:
    """Settings of one benchmark. Raises UserError for a value that cannot work."""

    size: str = setting(
        "which architecture, with random weights: Stable Diffusion XL, or the embedded base's",
        "sdxl",
        choices=("sdxl", "small"),
    )
    base_model: str | None = setting("a base model to measure instead: a folder or a Hugging Face name", None)
    device: str = setting("where to run", "auto", choices=("auto", "cpu", "cuda"))
    output: str = setting("JSON file for all that was measured", "outputs/bench.json")
    resolution: int | None = setting(
        "side of the pictures in pixels (default: 512, and 64 for the small size)", None, low=8, high=8192
    )
    partners: int = setting("partners beside the one target; they and it are the rows of a step", 3, low=1)
    rank: int | None = setting("rank of the adapter (default: 64, and 32 for the small size)", None, low=2)
    layers: str = setting("attention layers to adapt", "square", choices=("square", "all"))
    steps: int = setting("measured steps of each contender, taken in turn", 10, low=1)
    warm_up: int = setting("steps of each before the measured ones", 2, low=1)
    mixed_precision: str = setting("precision of the frozen model", "bf16", choices=("no", "bf16", "fp16"))
    gradient_checkpointing: bool = setting("recompute the forward pass: less memory, more time", False)
    rows_per_pass: int | None = setting("rows in one pass (default: all)", None, low=1)
    compile: bool = setting("compile the repeated blocks of our own contenders with torch.compile", False)
    rivals: str = setting(
        "what to measure beside ours: the published flow, an ordinary LoRA and other optimizers; light leaves out the "
        "published flow, which needs a copy of the model in float32",
        "all",
        choices=("all", "light", "none"),
    )

    def __post_init__(self) -> None:
        check(self)
        for name, large, small in (("resolution", 512, 64), ("rank", 64, 32)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, small if self.size == "small" else large)
        if self.resolution % 32:
            raise UserError(f"--resolution {self.resolution}: must be a multiple of 32 pixels")
