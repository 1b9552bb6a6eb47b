"""Settings: one frozen dataclass per job, and how dataclass, preset, file and flags add up."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from .errors import UserError
from .fields import check, flag, read_yaml, setting
from .presets import EMBEDDED, JOBS, PRESETS, SDXL

__all__ = [
    "EMBEDDED",
    "PRESETS",
    "SDXL",
    "STAGES",
    "GenerateConfig",
    "TrainConfig",
    "one_source",
    "resolve",
    "takes_preset",
]

STAGES = ("content", "style", "second", "joint")
_ONE = ("content", "style")  # the two stage-one jobs
_FRESH = (*_ONE, "joint")  # the jobs that start from nothing
_CONTENT, _STYLE = (
    ("content", "second", "joint"),
    ("style", "second", "joint"),
)  # jobs that see one, or the other


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training job. Raises UserError for a value that cannot work."""

    stage: str = setting("which of the jobs", choices=STAGES)
    base_model: str = setting(
        "the model to customize: a folder or a Hugging Face name of an SDXL pipeline", SDXL
    )
    output_dir: str = setting(
        "folder for the result, its log and the state that a rerun continues from", "outputs"
    )
    vae: str | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    content_dir: tuple[str, ...] = setting(
        "pictures of the content: a folder, or picture files", (), stages=_CONTENT
    )
    style_dir: tuple[str, ...] = setting(
        "pictures of the style: a folder, or picture files", (), stages=_STYLE
    )
    partner_dirs: tuple[str, ...] = setting(
        "diverse partners, one folder or picture each: styles for a content, contents for a style "
        "(the paper uses five)",
        (),
        stages=_ONE,
    )
    content_file: str | None = setting("the content file of stage one", None, stages=("second",))
    style_file: str | None = setting("the style file of stage one", None, stages=("second",))
    content_trigger: str = setting("made-up word that will call the content", "snq", stages=_CONTENT)
    content_class: str = setting(
        "what the content is, in plain words: teddybear, vase, ...", "object", stages=_CONTENT
    )
    style_trigger: str = setting("made-up word that will call the style", "w@z", stages=_STYLE)
    style_class: str = setting(
        "what the style is, in plain words: yarn art, chalk, ...", "art", stages=_STYLE
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
    rank: int = setting("rank of the adapter", 64, low=1, stages=_FRESH)
    ratio: float = setting("share of frozen rows and columns (Fig. 11)", 0.5, low=0, high=1, stages=_FRESH)
    basis: str = setting(
        "how the frozen parts are made", "exact", choices=("exact", "random", "reference"), stages=_FRESH
    )
    basis_scale: float = setting(
        "size of the frozen parts: larger keeps content and style further apart; divide the learning rates by it",
        1.0,
        low=1e-6,
        stages=_FRESH,
    )
    basis_seed: int = setting(
        "seed of the frozen parts: a content and a style compose only when theirs agree",
        0,
        low=0,
        high=2**63 - 1,
        stages=_FRESH,
    )
    layers: str = setting(
        "attention layers to adapt: those with equal widths, or all",
        "square",
        choices=("square", "all"),
        stages=_FRESH,
    )
    seed: int = setting("seed of noise, timesteps and the order of the pictures", 77, low=0, high=2**63 - 1)
    resolution: int = setting("side of the training pictures in pixels", 512, low=8, high=8192)
    fit: str = setting(
        "cut pictures to a centred square, or fit them whole on white", "crop", choices=("crop", "pad")
    )
    steps: int = setting("optimizer steps", 1000, low=1)
    target_rows: int = setting("pictures of the concept in every pass through the model", 1, low=1)
    gradient_accumulation: int = setting("passes per optimizer step", 4, low=1)
    lr: float = setting(
        "learning rate of the half being made (second stage: of both halves)", 1e-4, low=0, high=1000
    )
    partner_lr: float = setting(
        "learning rate of the other half, which the partners train", 1e-5, low=0, high=1000, stages=_ONE
    )
    routing: bool = setting(
        "each picture trains its own half only (Eq. 12); without it both, as in the published code",
        True,
        stages=_FRESH,
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
    weight_decay: float = setting("decoupled weight decay of the learnable halves", 0.01, low=0, high=1000)
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
    rows_per_pass: int | None = setting(
        "send so many rows at a time through the model: less memory, the same gradients (default: all at once)",
        None,
        low=1,
    )
    quantize: str = setting(
        "keep the linear layers of the frozen model in 8 bits: half the memory of bf16, results a little apart",
        "none",
        choices=("none", "int8"),
    )
    compile: bool = setting(
        "compile the repeated blocks with torch.compile: slow first steps, then faster", False
    )
    shard: bool = setting(
        "spread the frozen model over the processes of the run (FSDP): less memory for each, more traffic",
        False,
    )
    max_grad_norm: float = setting("clip the gradient to this norm (0: never)", 1.0, low=0)
    skip_not_finite: int = setting(
        "leave out so many steps whose loss or gradient is not a finite number, then stop (0: stop at the first)",
        0,
        low=0,
    )
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
            "joint": ("content_dir", "style_dir"),
        }
        for name in needs[self.stage]:
            if not getattr(self, name):
                raise UserError(f"{flag(name)} is missing: this job needs it ({_doc(type(self), name)})")
        if self.partner_prompts and len(self.partner_prompts) != len(self.partner_dirs):
            raise UserError(
                f"--partner-prompts has {len(self.partner_prompts)} captions for "
                f"{len(self.partner_dirs)} partners: give one each, or none"
            )
        if self.shard and (self.compile or self.quantize != "none"):
            raise UserError("--shard goes without --compile and --quantize: choose one of them")
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


FUSED = "a fused file of the second stage, or any other LoRA file"


@dataclass(frozen=True)
class GenerateConfig:
    """Settings of one sampling job: every prompt is drawn with every seed."""

    base_model: str = setting("the model the files were made for: a folder or a Hugging Face name", SDXL)
    output_dir: str = setting("folder for the pictures", "outputs/pictures")
    vae: str | None = setting("folder or name of an autoencoder that replaces the base model's", None)
    content_file: str | None = setting("a content file; with a style file the two are composed", None)
    style_file: str | None = setting("a style file; with a content file the two are composed", None)
    lora_file: str | None = setting(FUSED, None)
    prompts: tuple[str, ...] = setting("what to draw, one or more prompts", ())
    negative_prompt: str | None = setting("what to keep out", None)
    seeds: tuple[int, ...] = setting("one picture per seed and prompt", (77,), low=0, high=2**63 - 1)
    steps: int = setting("denoising steps (Euler)", 25, low=1, high=1000)
    guidance: float = setting("how strictly the prompt is followed", 5.0, low=0, high=1000)
    size: int = setting("side of the pictures in pixels", 1024, low=8, high=8192)
    content_strength: float = setting("dial of the content: 0 none, 1 as trained", 1.0, low=-100, high=100)
    style_strength: float = setting("dial of the style: 0 none, 1 as trained", 1.0, low=-100, high=100)
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
        one_source(self)


def one_source(config: Any) -> None:
    """Raise UserError for a LoRA file beside concept files."""
    if config.lora_file and (config.content_file or config.style_file):
        raise UserError(
            "--lora-file goes without --content-file and --style-file: it already holds a content and a style"
        )


def _words(trigger: str, noun: str) -> str:
    return " ".join(word for word in (trigger, noun) if word)


def _doc(cls: type, name: str) -> str:
    return next(f.metadata["doc"] for f in fields(cls) if f.name == name)


def resolve(
    cls: type, preset: str | None = None, settings_file: str | Path | None = None, **flags: Any
) -> Any:
    """Settings from, in rising order: the dataclass, the preset, the YAML file, the flags.

    cls: TrainConfig (then `stage` is among the flags) or another settings class. preset None: "sdxl"
    when a base model is named in file or flags, else "embedded". Raises UserError.
    """
    given = read_yaml(settings_file) if settings_file is not None else {}
    known = {f.name for f in fields(cls)}
    for key in [*given, *flags]:
        if key == "preset" and key in given:
            continue
        if key not in known:
            where = settings_file if key in given else "settings"
            raise UserError(f"{where}: unknown setting {key!r}; known: {', '.join(sorted(known))}")
    preset = preset or given.pop("preset", None)
    given = {**given, **flags}
    preset = preset or ("sdxl" if "base_model" in given else "embedded")
    for f in fields(cls):
        if f.default is MISSING and f.name not in given:
            raise UserError(f"{flag(f.name)} is missing ({f.metadata['doc']})")
    return cls(**{**_preset_row(cls, preset, given.get("stage")), **given})


def takes_preset(cls: type) -> bool:
    """Whether a preset changes anything of these settings."""
    return cls is TrainConfig or cls.__name__ in JOBS


def _preset_row(cls: type, preset: str, stage: str | None) -> Mapping[str, Any]:
    if preset not in PRESETS:
        raise UserError(f"--preset {preset!r}: choose one of {', '.join(PRESETS)}")
    row = PRESETS[preset]
    if cls is TrainConfig:
        return {**row["train"], **(row["second"] if stage == "second" else {})}
    known = {f.name for f in fields(cls)}
    jobs = JOBS.get(cls.__name__, ())
    return {name: value for job in jobs for name, value in row[job].items() if name in known}
