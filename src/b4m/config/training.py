"""Settings of a training: what every job reads, and what the jobs of this project's own methods read beside it."""

from dataclasses import dataclass, fields
from typing import ClassVar

from ..core.errors import UserError
from .fields import InputPath, ModelName, OutputPath, check, flag, setting
from .presets import MODEL, SDXL

# Of the second stage's teacher: things on plain grounds and in places, so that a place stays something to ask for.
PAIR_PROMPTS = (
    "a {content} in {style} style",
    "a {content} in {style} style on a white background",
    "a {content} in {style} style on a black background",
    "a {content} in {style} style on a green background",
    "a {content} in {style} style in a forest",
    "a {content} in {style} style on a beach",
    "a {content} in {style} style in a city",
    "a {content} in {style} style wearing a hat",
)
TEACHING = ("pair_prompts", "teacher_paths", "teacher_guidance", "content_weight", "style_weight")
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
        """The prompt that calls both: "a photo of snq teddybear in w@z yarn art style"."""
        return f"{self.content_prompt} {self.style_words}"


@dataclass(frozen=True, kw_only=True)
class Factors(TrainConfig):
    """Settings of a job that starts a content factor and a style factor from nothing (Sec. 4.1)."""

    preset_rows = ("factors",)  # over those of every training

    rank: int = setting("rank of the adapter", 64, low=1)
    ratio: float = setting("share of frozen rows and columns (Fig. 11)", 0.5, low=0, high=1)
    basis: str = setting("how the frozen factors are made", "exact", choices=("exact", "random", "reference"))
    inputs: str = setting(
        "what contents read of a layer's inputs: directions drawn from the seed, as in the paper, or the principal "
        "ones, measured while the base model draws",
        "cosine",
        choices=("cosine", "principal"),
    )
    basis_scale: float = setting(
        "size of the frozen factors: larger keeps content and style further apart; divide the learning rates by it",
        1.0,
        low=1e-6,
    )
    basis_seed: int = setting(
        "seed of the frozen factors: a content and a style compose only when theirs agree",
        0,
        low=0,
        high=2**63 - 1,
    )
    layers: str = setting(
        "attention layers to adapt: those with equal widths, or all", "square", choices=("square", "all")
    )
    routing: bool = setting(
        "each sample trains its own factor only (Eq. 12); without it both, as in the published code", True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.basis == "exact" and self.rank < 2:
            raise UserError("--rank 1 cannot be split in two: the exact basis needs a rank of 2 or more")
        if self.inputs == "principal" and self.basis != "exact":
            raise UserError(
                f"--inputs principal needs --basis exact, and it is {self.basis}; give --inputs cosine"
            )


@dataclass(frozen=True, kw_only=True)
class Partners(TrainConfig):
    """Settings of a job that learns one concept beside partners of the other kind (Sec. 4.2)."""

    partner_dirs: tuple[InputPath, ...] = setting(
        "diverse partners, a folder, image or data set each: styles for a content, contents for a style (the paper "
        "uses five; examples/partners/draw.py draws some with a base model)",
        (),
    )
    prompt: str | None = setting(
        "caption of the concept's images that have none of their own "
        "(default: built from trigger and class words)",
        None,
    )
    partner_prompts: tuple[str, ...] = setting(
        "captions of the partners, in their order (default: built from the partner's file or folder name)", ()
    )
    partner_lr: float = setting(
        "learning rate of the other factor, which the partners train", 1e-5, low=0, high=1000
    )
    prodigy: bool = setting(
        "let the Prodigy optimizer find the learning rate, which --lr and --partner-lr then multiply (1 is usual)",
        False,
    )
    partner_samples: int | None = setting(
        "draw so many of the partners for each step (default: all of them in every micro-batch)", None, low=1
    )
    prior_images: int = setting(
        "keep the class as it was: learn so many images of it beside the concept's, which the base model draws once",
        0,
        low=0,
        high=100_000,
    )
    prior_weight: float = setting("weight of the loss on the prior images", 1.0, low=0, high=1e6)
    prior_guidance: float = setting("guidance scale of the prior images", 5.0, low=0, high=1000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prodigy and self.lr != self.partner_lr:
            raise UserError(
                f"--prodigy finds one rate for both factors, and --lr is {self.lr:g}, --partner-lr "
                f"{self.partner_lr:g}: give both the same value (1 is usual)"
            )
        if self.partner_samples and self.partner_samples > len(self.partner_dirs):
            raise UserError(
                f"--partner-samples {self.partner_samples}: there are {len(self.partner_dirs)} partners to draw from; "
                "give fewer samples or more --partner-dirs"
            )
        if self.partner_prompts and len(self.partner_prompts) != len(self.partner_dirs):
            raise UserError(
                f"--partner-prompts has {len(self.partner_prompts)} captions for "
                f"{len(self.partner_dirs)} partners: give one each, or none"
            )


@dataclass(frozen=True, kw_only=True)
class ContentConfig(ShowsContent, Partners, Factors, TrainConfig):
    """Stage one of a content."""

    stage, result = "content", "content.safetensors"
    preset_rows = ("content",)
    needs = ("content_dir", "partner_dirs")


@dataclass(frozen=True, kw_only=True)
class StyleConfig(ShowsStyle, Partners, Factors, TrainConfig):
    """Stage one of a style."""

    stage, result = "style", "style.safetensors"
    preset_rows = ("style",)
    needs = ("style_dir", "partner_dirs")


@dataclass(frozen=True, kw_only=True)
class JointConfig(ShowsBoth, Factors, TrainConfig):
    """One content and one style in one run."""

    stage, result = "joint", LORA_FILE
    needs = ("content_dir", "style_dir")


@dataclass(frozen=True, kw_only=True)
class SecondConfig(ShowsBoth, TrainConfig):
    """The second stage of a content and a style (Sec. 4.2 and 4.3)."""

    stage, result, section = "second", LORA_FILE, "second"
    preset_rows = ("second",)  # over those of every training
    needs = ("content_file", "style_file")

    content_file: InputPath | None = setting("the content file of stage one", None)
    style_file: InputPath | None = setting("the style file of stage one", None)
    optimizer: str = setting(
        "optimizer (Sec. 4.3)",
        "riemannian-adamw",
        choices=("riemannian-adamw", "riemannian-sgd", "adamw"),
    )
    damping: float | None = setting(
        "damping of the Riemannian precondition (default: the optimizer's own)", None, low=1e-12
    )
    objective: str = setting(
        "what is learned: the references (the paper's loss), the sum of both files' predictions, or both",
        "pictures",
        choices=("pictures", "distill", "both"),
    )
    pair_prompts: tuple[str, ...] = setting(
        "prompts under which the predictions are summed; {content} and {style} stand for the files' words",
        PAIR_PROMPTS,
    )
    teacher_paths: int = setting(
        "images, so to speak, that the sum of predictions draws", 16, low=1, high=10_000
    )
    teacher_guidance: float = setting("their guidance scale, against the base model", 1.5, low=1, high=1000)
    content_weight: float = setting("weight of the content's move in the sum", 1.0, low=0, high=10)
    style_weight: float = setting("weight of the style's move in the sum", 1.0, low=0, high=10)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective == "pictures":
            self._check_untaught()
        else:
            self._check_teacher()
        for name in ("content_dir", "style_dir"):
            if self.objective != "distill" and not getattr(self, name):
                raise UserError(
                    f"{flag(name)} is missing: --objective {self.objective} learns from images; give their folder, or "
                    "--objective distill, which needs none"
                )

    def _check_untaught(self) -> None:
        for f in fields(self):
            if f.name in TEACHING and getattr(self, f.name) != f.default:
                raise UserError(
                    f"{flag(f.name)} is for the sum of predictions, which --objective pictures does not read; leave it "
                    "out, or give --objective distill or both"
                )

    def _check_teacher(self) -> None:
        if self.snr_gamma is not None and self.objective == "distill":
            raise UserError(
                "--snr-gamma weighs the loss on images, and --objective distill has none: leave it out"
            )
        if not self.pair_prompts:
            raise UserError("--pair-prompts is empty: give at least one prompt that calls both concepts")
        if self.content_weight == self.style_weight == 0:
            raise UserError(
                "--content-weight 0 and --style-weight 0: that sum is the base model; raise one of them"
            )


# The jobs with commands of their own; those of other methods bring settings classes with them.
JOBS: dict[str, type[TrainConfig]] = {
    cls.stage: cls for cls in (ContentConfig, StyleConfig, SecondConfig, JointConfig)
}


def _words(trigger: str, noun: str) -> str:
    return " ".join(word for word in (trigger, noun) if word)
