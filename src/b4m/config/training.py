"""Settings of a training: what every job reads, and what those read that see a content or a style."""

from dataclasses import dataclass
from typing import ClassVar

from ..core.errors import UserError
from .fields import InputPath, ModelName, OutputPath, check, flag, setting
from .presets import MODEL, SDXL

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that every reader looks for


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every job reads that makes a file. Raises UserError for a value that cannot work."""

    stage: ClassVar[str]  # the job's name
    result: ClassVar[str]  # file name of what it makes
    section: ClassVar[str] = "train"  # of a study's settings that it reads
    preset_rows: ClassVar[tuple[str, ...]] = ("train",)
    needs: ClassVar[tuple[str, ...]] = ()  # settings that the job cannot do without

    base_model: ModelName = setting(f"the Stable Diffusion model to customize: {MODEL}", SDXL)
    output_dir: OutputPath = setting(
        "folder for the result, its log and the state that a rerun continues from", "outputs"
    )

    def __post_init__(self) -> None:
        check(self)
        for name in self.needs:
            if not getattr(self, name):
                doc = type(self).__dataclass_fields__[name].metadata["doc"]
                raise UserError(f"{flag(name)} is missing: this job needs it ({doc})")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(JobConfig):
    """What every training job reads."""

    vae: ModelName | None = setting(f"an autoencoder that replaces the base model's: {MODEL}", None)
    seed: int = setting("seed of noise, timesteps and the order of the images", 77, low=0, high=2**63 - 1)
    resolution: int = setting("side of the training images in pixels", 512, low=8, high=8192)
    fit: str = setting(
        "cut images to a centred square, or fit them whole on white", "crop", choices=("crop", "pad")
    )
    alpha: str = setting(
        "transparent parts of the images: lay them over white, or leave them out of the loss",
        "white",
        choices=("white", "mask"),
    )
    buckets: bool = setting(
        "images keep the one of SDXL's shapes that is closest to theirs, of as many pixels as the square",
        False,
    )
    steps: int = setting("optimizer steps", 1000, low=1)
    target_rows: int = setting("samples of each target concept in every micro-batch", 1, low=1)
    gradient_accumulation: int = setting("micro-batches per optimizer step", 4, low=1)
    lr: float = setting(
        "learning rate of the target factor (second stage and joint training: of both factors)",
        1e-4,
        low=0,
        high=1000,
    )
    weight_decay: float = setting("decoupled weight decay of what is learned", 0.01, low=0, high=1000)
    lr_schedule: str = setting(
        "course of the learning rates", "constant", choices=("constant", "linear", "cosine")
    )
    snr_gamma: float | None = setting(
        "weigh the loss by min-SNR with this gamma (off by default; 5 is usual)", None, low=0
    )
    mixed_precision: str = setting(
        "precision of the frozen model; what is learned stays float32", "no", choices=("no", "bf16", "fp16")
    )
    gradient_checkpointing: bool = setting(
        "less memory for about a third more time", False, affects_result=False
    )
    rows_per_pass: int | None = setting(
        "split a micro-batch into parts of so many samples: less memory, the same gradients (default: no split)",
        None,
        low=1,
        affects_result=False,
    )
    quantize: str = setting(
        "keep the linear layers of the frozen model in 8 bits: half the memory of bf16, results a little apart",
        "none",
        choices=("none", "int8"),
    )
    compile: bool = setting(
        "compile the repeated blocks with torch.compile: slow first steps, then faster",
        False,
        affects_result=False,
    )
    shard: bool = setting(
        "spread the frozen model over the processes of the run (FSDP): less memory for each, more traffic",
        False,
        affects_result=False,
    )
    max_grad_norm: float = setting("clip the gradient to this norm (0: never)", 1.0, low=0)
    skip_not_finite: int = setting(
        "leave out so many steps whose loss or gradient is not a finite number, then stop (0: stop at the first)",
        0,
        low=0,
        affects_result=False,
    )
    preview_every: int = setting(
        "draw sample images every so many steps (0: never)", 0, low=0, affects_result=False
    )
    preview_prompts: tuple[str, ...] = setting(
        "prompts of the sample images, one or more (default: the concept's own)", (), affects_result=False
    )
    preview_negative: str = setting(
        "what guidance leads away from in sample images: the model as trained so far, or the base model",
        "adapted",
        choices=("adapted", "base"),
        affects_result=False,
    )
    checkpoint_every: int = setting(
        "save the state every so many steps (0: only when stopped or done)", 100, low=0, affects_result=False
    )
    tracker: str = setting(
        "where the loss curves go besides log.jsonl",
        "none",
        choices=("none", "tensorboard", "wandb"),
        affects_result=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shard and (self.compile or self.quantize != "none"):
            raise UserError("--shard goes without --compile and --quantize: choose one of them")


@dataclass(frozen=True, kw_only=True)
class ShowsContent:
    """Settings of a job that sees the content's images."""

    content_dir: tuple[InputPath, ...] = setting(
        "images of the content: a folder, image files, or a data set as NAME:SPLIT", ()
    )
    content_trigger: str = setting("made-up word that will call the content", "snq")
    content_class: str = setting("what the content is, in plain words: teddybear, vase, ...", "object")

    @property
    def content_words(self) -> str:
        """ "snq teddybear"."""
        return _words(self.content_trigger, self.content_class)

    @property
    def content_prompt(self) -> str:
        """Caption of content images: "a photo of snq teddybear"."""
        return f"a photo of {self.content_words}"


@dataclass(frozen=True, kw_only=True)
class ShowsStyle:
    """Settings of a job that sees the style's images."""

    style_dir: tuple[InputPath, ...] = setting(
        "images of the style: a folder, image files, or a data set as NAME:SPLIT", ()
    )
    style_trigger: str = setting("made-up word that will call the style", "w@z")
    style_class: str = setting("what the style is, in plain words: yarn art, chalk, ...", "art")

    @property
    def style_name(self) -> str:
        """ "w@z yarn art"."""
        return _words(self.style_trigger, self.style_class)

    @property
    def style_words(self) -> str:
        """ "in w@z yarn art style"."""
        return f"in {self.style_name} style"

    @property
    def style_prompt(self) -> str:
        """Caption of style images: "a picture in w@z yarn art style"."""
        return f"a picture {self.style_words}"


@dataclass(frozen=True, kw_only=True)
class ShowsBoth(ShowsContent, ShowsStyle):
    """Settings of a job that sees a content and a style."""

    @property
    def both_prompt(self) -> str:
        """The prompt that calls both: "snq teddybear in w@z yarn art style"; a photo would be no yarn."""
        return f"{self.content_words} {self.style_words}"


def _words(trigger: str, noun: str) -> str:
    return " ".join(word for word in (trigger, noun) if word)
