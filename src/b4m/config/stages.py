"""Settings of this project's own jobs: both stages, and joint training."""

from dataclasses import dataclass, fields

from ..core.errors import UserError
from .fields import InputPath, flag, setting
from .training import LORA_FILE, ShowsBoth, ShowsContent, ShowsStyle, TrainConfig

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
    own_presets = {"embedded": dict(rank=64, lr=1.2e-3, steps=200)}  # JTtrain's, of `b4m study table1-tuning`


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
