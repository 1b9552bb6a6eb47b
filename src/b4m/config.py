"""Settings: one frozen dataclass per job, the presets, and how dataclass, preset, file and flags add up."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import UserError
from .fields import check, flag, read_yaml, setting

STAGES = ("content", "style", "second")
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
EMBEDDED = "examples/world/base"

# One row per preset: what it changes of the dataclass defaults, by job ("second" comes on top of "train").
# "sdxl" holds the published settings (method.md, section 3; paper, Sec. 5).
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "sdxl": {
        "train": dict(
            base_model=SDXL,
            rank=64,
            resolution=512,
            target_rows=1,
            gradient_accumulation=4,
            steps=1000,
            lr=1e-4,
            partner_lr=1e-5,
        ),
        "second": dict(steps=60, lr=1e-4),
        "generate": dict(base_model=SDXL, size=1024),
    },
    # Found by trying on the held-out examples: one GPU-free machine, minutes. Apart from the paper's settings: all
    # attention layers, since cross-attention k and v are where a small model reads its words, and a basis scale of 8,
    # without which the interaction block of halves this strong drowns what each has learned.
    "embedded": {
        "train": dict(
            base_model=EMBEDDED,
            rank=32,
            layers="all",
            basis_scale=8.0,
            resolution=64,
            target_rows=4,
            gradient_accumulation=1,
            steps=600,
            lr=8e-4,
            partner_lr=8e-5,
            lr_schedule="cosine",
        ),
        "second": dict(steps=30, lr=1e-4, lr_schedule="constant"),
        "generate": dict(base_model=EMBEDDED, size=64, guidance=2.5),
    },
}


_ONE = ("content", "style")  # the two stage-one jobs


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training job. Raises UserError for a value that cannot work."""

    stage: str = setting("which of the three jobs", choices=STAGES)
    base_model: str = setting(
        "the model to customize: a folder or a Hugging Face name of an SDXL pipeline", SDXL
    )
    output_dir: str = setting(
        "folder for the result, its log and the state that a rerun continues from", "outputs"
    )
    vae: str | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    content_dir: str | None = setting(
        "pictures of the content: a folder or one file", None, stages=("content", "second")
    )
    style_dir: str | None = setting(
        "pictures of the style: a folder or one file", None, stages=("style", "second")
    )
    partner_dirs: tuple[str, ...] = setting(
        "diverse partners, one folder or picture each: styles for a content, contents for a style "
        "(the paper uses five)",
        (),
        stages=_ONE,
    )
    content_file: str | None = setting("the content file of stage one", None, stages=("second",))
    style_file: str | None = setting("the style file of stage one", None, stages=("second",))
    content_trigger: str = setting(
        "made-up word that will call the content", "snq", stages=("content", "second")
    )
    content_class: str = setting(
        "what the content is, in plain words: teddybear, vase, ...", "object", stages=("content", "second")
    )
    style_trigger: str = setting("made-up word that will call the style", "w@z", stages=("style", "second"))
    style_class: str = setting(
        "what the style is, in plain words: yarn art, chalk, ...", "art", stages=("style", "second")
    )
    prompt: str | None = setting(
        "caption of the concept's pictures that have none of their own "
        "(default: built from trigger and class words)",
        None,
        stages=_ONE,
    )
    partner_prompts: tuple[str, ...] = setting(
        "captions of the partners, in their order (default: built from the partner's file or folder name)",
        (),
        stages=_ONE,
    )
    rank: int = setting("rank of the adapter", 64, low=1, stages=_ONE)
    ratio: float = setting("share of frozen rows and columns (Fig. 11)", 0.5, low=0, high=1, stages=_ONE)
    basis: str = setting(
        "how the frozen parts are made", "exact", choices=("exact", "random", "reference"), stages=_ONE
    )
    basis_scale: float = setting(
        "size of the frozen parts: larger keeps content and style further apart; divide the learning rates by it",
        1.0,
        low=1e-6,
        stages=_ONE,
    )
    basis_seed: int = setting(
        "seed of the frozen parts: a content and a style compose only when theirs agree",
        0,
        low=0,
        stages=_ONE,
    )
    layers: str = setting(
        "attention layers to adapt: those with equal widths, or all",
        "square",
        choices=("square", "all"),
        stages=_ONE,
    )
    seed: int = setting("seed of noise, timesteps and the order of the pictures", 77, low=0)
    resolution: int = setting("side of the training pictures in pixels", 512, low=8)
    fit: str = setting(
        "cut pictures to a centred square, or fit them whole on white", "crop", choices=("crop", "pad")
    )
    steps: int = setting("optimizer steps", 1000, low=1)
    target_rows: int = setting("pictures of the concept in every pass through the model", 1, low=1)
    gradient_accumulation: int = setting("passes per optimizer step", 4, low=1)
    lr: float = setting("learning rate of the half being made (second stage: of both halves)", 1e-4, low=0)
    partner_lr: float = setting(
        "learning rate of the other half, which the partners train", 1e-5, low=0, stages=_ONE
    )
    optimizer: str = setting(
        "second-stage optimizer (Sec. 4.3)",
        "riemannian-adamw",
        stages=("second",),
        choices=("riemannian-adamw", "riemannian-sgd", "adamw"),
    )
    damping: float | None = setting(
        "damping of the Riemannian precondition (default: the optimizer's own)",
        None,
        low=1e-12,
        stages=("second",),
    )
    weight_decay: float = setting("decoupled weight decay of the learnable halves", 0.01, low=0)
    lr_schedule: str = setting(
        "course of the learning rates", "constant", choices=("constant", "linear", "cosine")
    )
    snr_gamma: float | None = setting(
        "weigh the loss by min-SNR with this gamma (off by default; 5 is usual)", None, low=0
    )
    mixed_precision: str = setting(
        "precision of the frozen model; the learnable halves stay float32",
        "no",
        choices=("no", "bf16", "fp16"),
    )
    gradient_checkpointing: bool = setting("less memory for about a third more time", False)
    max_grad_norm: float = setting("clip the gradient to this norm (0: never)", 1.0, low=0)
    preview_every: int = setting("draw sample pictures every so many steps (0: never)", 0, low=0)
    preview_prompt: str | None = setting("prompt of the sample pictures (default: the concept's own)", None)
    checkpoint_every: int = setting(
        "save the state every so many steps (0: only when stopped or done)", 100, low=0
    )
    tracker: str = setting(
        "where the loss curves go besides log.jsonl", "none", choices=("none", "tensorboard")
    )

    def __post_init__(self) -> None:
        check(self)
        needs = {
            "content": ("content_dir", "partner_dirs"),
            "style": ("style_dir", "partner_dirs"),
            "second": ("content_dir", "style_dir", "content_file", "style_file"),
        }
        for name in needs[self.stage]:
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: this job needs it ({_doc(type(self), name)})")
        if self.partner_prompts and len(self.partner_prompts) != len(self.partner_dirs):
            raise UserError(
                f"--partner-prompts has {len(self.partner_prompts)} captions for "
                f"{len(self.partner_dirs)} partners: give one each, or none"
            )
        if self.basis == "exact" and self.rank < 2:
            raise UserError("--rank 1 cannot be split in two: the exact basis needs a rank of 2 or more")

    @property
    def content_prompt(self) -> str:
        """Caption of content pictures: "a photo of snq teddybear"."""
        return f"a photo of {_words(self.content_trigger, self.content_class)}"

    @property
    def style_prompt(self) -> str:
        """Caption of style pictures: "a picture in w@z yarn art style"."""
        return f"a picture in {_words(self.style_trigger, self.style_class)} style"

    @property
    def both_prompt(self) -> str:
        """The prompt that calls both: "a photo of snq teddybear in w@z yarn art style"."""
        return f"{self.content_prompt} in {_words(self.style_trigger, self.style_class)} style"


_FUSED = "a fused file of the second stage, or any other LoRA file"


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one sampling job: every prompt is drawn with every seed."""

    base_model: str = setting("the model the files were made for: a folder or a Hugging Face name", SDXL)
    output_dir: str = setting("folder for the pictures", "outputs/pictures")
    vae: str | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    content_file: str | None = setting("a content file; with a style file the two are composed", None)
    style_file: str | None = setting("a style file; with a content file the two are composed", None)
    lora_file: str | None = setting(_FUSED, None)
    prompts: tuple[str, ...] = setting("what to draw, one or more prompts", ())
    negative_prompt: str | None = setting("what to keep out", None)
    seeds: tuple[int, ...] = setting("one picture per seed and prompt", (77,))
    steps: int = setting("denoising steps (Euler)", 25, low=1)
    guidance: float = setting("how strictly the prompt is followed", 5.0, low=0)
    size: int = setting("side of the pictures in pixels", 1024, low=8)
    content_strength: float = setting("dial of the content: 0 none, 1 as trained", 1.0)
    style_strength: float = setting("dial of the style: 0 none, 1 as trained", 1.0)
    mixed_precision: str = setting(
        "precision of the model; the autoencoder always runs in float32", "no", choices=("no", "bf16", "fp16")
    )
    grid: bool = setting("also write grid.png: prompts down, seeds across", False)

    def __post_init__(self) -> None:
        check(self)
        if not self.prompts:
            raise UserError(
                "--prompts is missing: say what to draw, for example --prompts 'a photo of snq bear'"
            )
        if not self.seeds:
            raise UserError("--seeds is empty: give at least one number")
        _one_source(self)


@dataclass(frozen=True)
class ExportConfig:
    """Settings of one export: concept files or a fused file to an ordinary LoRA file."""

    output: str = setting("file to write, ending in .safetensors")
    base_model: str = setting("the model the files were made for (only its layer sizes are read)", SDXL)
    content_file: str | None = setting("a content file", None)
    style_file: str | None = setting("a style file", None)
    lora_file: str | None = setting(_FUSED, None)
    content_strength: float = setting("dial of the content, folded into the file", 1.0)
    style_strength: float = setting("dial of the style, folded into the file", 1.0)
    dtype: str = setting("number format of the file", "fp16", choices=("fp32", "fp16", "bf16"))

    def __post_init__(self) -> None:
        check(self)
        if not self.output.endswith(".safetensors"):
            raise UserError(f"--output {self.output}: the name must end in .safetensors")
        _one_source(self)
        if not (self.lora_file or self.content_file or self.style_file):
            raise UserError("nothing to export: give --content-file and --style-file, or --lora-file")


def _one_source(config: GenerateConfig | ExportConfig) -> None:
    if config.lora_file and (config.content_file or config.style_file):
        raise UserError("--lora-file goes alone: it already holds a content and a style")


def _words(trigger: str, noun: str) -> str:
    return " ".join(word for word in (trigger, noun) if word)


def _doc(cls: type, name: str) -> str:
    return next(f.metadata["doc"] for f in fields(cls) if f.name == name)


def resolve(cls: type, preset: str | None = None, file: str | Path | None = None, **flags: Any) -> Any:
    """Settings from, in rising order: the dataclass, the preset, the YAML file, the flags.

    cls: TrainConfig (then `stage` is among the flags), GenerateConfig or ExportConfig. preset None: "sdxl"
    when a base model is named in file or flags, else "embedded". Raises UserError.
    """
    given = read_yaml(file) if file is not None else {}
    known = {f.name for f in fields(cls)}
    for key in [*given, *flags]:
        if key == "preset" and key in given:
            continue
        if key not in known:
            where = file if key in given else "settings"
            raise UserError(f"{where}: unknown setting {key!r}; known: {', '.join(sorted(known))}")
    preset = preset or given.pop("preset", None)
    given = {**given, **flags}
    preset = preset or ("sdxl" if "base_model" in given else "embedded")
    for f in fields(cls):
        if f.default is MISSING and f.name not in given:
            raise UserError(f"{flag(f.name)} is missing ({f.metadata['doc']})")
    return cls(**{**_preset_row(cls, preset, given.get("stage")), **given})


def _preset_row(cls: type, preset: str, stage: str | None) -> Mapping[str, Any]:
    if preset not in PRESETS:
        raise UserError(f"--preset {preset!r}: choose one of {', '.join(PRESETS)}")
    row = PRESETS[preset]
    if cls is ExportConfig:
        return {"base_model": row["generate"]["base_model"]}
    if cls is GenerateConfig:
        return row["generate"]
    return {**row["train"], **(row["second"] if stage == "second" else {})}
