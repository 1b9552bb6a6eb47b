"""Ordinary LoRAs (Eq. 1): settings, learner and file that several methods share."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from ..backbones.latent_diffusion import denoiser_hash
from ..backbones.protocol import Backbone
from ..backbones.registry import family_of
from ..config.fields import InputPath, setting
from ..config.training import LORA_FILE, JobConfig, ShowsContent, ShowsStyle, TrainConfig
from ..core.errors import UserError
from ..data.inputs import Inputs
from ..files.contents import Contents, Layers
from ..files.lora import fit, save_lora
from ..files.opening import Opened, open_any
from ..maths.adapter import Adapter
from ..maths.plp import FACTORS, BasisSpec
from .denoising import DenoisingTask
from .factors import FactorLearner
from .protocol import Learner

MADE_BY, LEARNED = "b4m.made_by", "b4m.trained_parameters"  # in the headers of the files
COUNT = re.compile("[0-9]{1,15}")  # what a stranger's header may say of LEARNED


@dataclass(frozen=True, kw_only=True)
class LowRank(TrainConfig):
    """Settings of a training of a LoRA."""

    # On the embedded base, here and of the other methods: what won in `b4m study table1-tuning`.
    own_presets: ClassVar[dict[str, dict[str, Any]]] = {"embedded": dict(lr=6e-4, steps=100)}

    rank: int = setting("rank of the LoRA", 64, low=1)
    layers: str = setting(
        "attention layers to adapt: those with equal widths, or all", "square", choices=("square", "all")
    )


@dataclass(frozen=True, kw_only=True)
class LoraContentConfig(ShowsContent, LowRank):
    """A LoRA of a content."""

    stage, result, needs = "lora-content", LORA_FILE, ("content_dir",)


@dataclass(frozen=True, kw_only=True)
class LoraStyleConfig(ShowsStyle, LowRank):
    """A LoRA of a style."""

    stage, result, needs = "lora-style", LORA_FILE, ("style_dir",)


@dataclass(frozen=True, kw_only=True)
class TakesBoth(JobConfig):
    """Settings of a job that goes on from a LoRA of a content and a LoRA of a style."""

    section = "merge"
    needs = ("content_file", "style_file")

    content_file: InputPath | None = setting("a LoRA file of the content", None)
    style_file: InputPath | None = setting("a LoRA file of the style", None)


@dataclass(frozen=True, kw_only=True)
class DirectSumConfig(TakesBoth):
    """Settings of the weighted sum of two LoRAs, which the files of several methods are."""

    stage, result = "direct-sum", LORA_FILE

    content_weight: float = setting("weight of the content's LoRA", 1.0, low=-100, high=100)
    style_weight: float = setting("weight of the style's LoRA", 1.0, low=-100, high=100)


def kind_of(config: TrainConfig) -> str:
    """Which concept a job's images show."""
    return "content" if isinstance(config, ShowsContent) else "style"


class LoraTask(DenoisingTask):
    """One concept, from nothing and without partners."""

    def __init__(self, config: LowRank) -> None:
        self.kind = kind_of(config)
        prompt = getattr(config, f"{self.kind}_prompt")
        super().__init__(config, {self.kind: prompt}, prompt)

    def start(self, backbone: Backbone) -> Learner:
        return LoraLearner(backbone, self.inputs, self.config, install(backbone, self.config))


def install(backbone: Backbone, config: LowRank, only: Sequence[str] = ()) -> Adapter:
    """An adapter of which nothing is frozen, hence an ordinary LoRA: U = B starts at zero, D = D at random.

    A content and a style start from different D, as two strangers' LoRAs do. only: see `Adapter.install`.
    """
    seed = 2 * config.seed + (kind_of(config) == "style")
    spec = BasisSpec(seed, config.rank, ratio=0.0, kind="random")
    return Adapter.install(backbone.denoiser, spec, config.layers, only)


class LoraLearner(FactorLearner):
    """Both projections learn from every sample."""

    made_by = "lora"

    def __init__(self, backbone: Backbone, inputs: Inputs, config: Any, adapter: Adapter) -> None:
        super().__init__(backbone, inputs, config, adapter, False, dict.fromkeys(FACTORS, config.lr))

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        words = words_of(self.config, kind_of(self.config))
        base, learned = opened_base(self.backbone), count(self.named)
        save_ordinary(folder / LORA_FILE, self.kept(), base, {**facts, **words}, self.made_by, learned)

    def kept(self) -> Layers:
        """What of it goes into the file."""
        return self.adapter.lora()


def count(named: Mapping[str, Tensor]) -> int:
    """Numbers that learn."""
    return sum(parameter.numel() for parameter in named.values())


def words_of(config: Any, *kinds: str) -> dict[str, str]:
    """Metadata: prompt and trigger word of each kind."""
    return {
        f"{kind}_{key}": getattr(config, f"{kind}_{key}") for kind in kinds for key in ("prompt", "trigger")
    }


def save_ordinary(
    path: Path,
    layers: Layers,
    base: Mapping[str, str],
    metadata: Mapping[str, str],
    made_by: str,
    learned: int | None,
) -> None:
    """A LoRA file for any tool. base: what `base_of` says; learned: how many numbers were trained for it, if known."""
    facts = {f"b4m.{key}": value for key, value in metadata.items()}
    told = {} if learned is None else {LEARNED: str(learned)}
    save_lora(path, layers, {**facts, MADE_BY: made_by, **told, **base})


def base_of(family: Any, denoiser: Any, prediction_type: str) -> dict[str, str]:
    """Header entries that say which base model a file is for. family: a `Backbone` or its class."""
    return {"b4m.unet_hash": denoiser_hash(denoiser), **family.stamp(denoiser, prediction_type)}


def opened_base(backbone: Backbone) -> dict[str, str]:
    """`base_of` a base model that is loaded."""
    return base_of(backbone, backbone.denoiser, backbone.prediction_type)


def unopened_base(base_model: str) -> tuple[Any, dict[str, str]]:
    """The denoiser of a base model without its weights, and `base_of` it. Raises UserError."""
    family = family_of(base_model)
    denoiser = family.empty_denoiser(base_model)
    return denoiser, base_of(family, denoiser, family.read_prediction_type(base_model))


def open_lora(path: str, kind: str) -> Opened:
    """An ordinary LoRA that is to be put together with others. Raises UserError."""
    opened = open_any(path)
    if not opened.layers or opened.contents.others:
        held = f"file of the method {opened.method}" if opened.kind == "method" else opened.kind
        raise UserError(
            f"{opened.where}: holds a {held}, and a LoRA of the {kind} is needed: train one with b4m train lora:{kind}"
        )
    return opened


def open_both(config: Any) -> dict[str, Opened]:
    """content_file and style_file of a job's settings, by kind. Raises UserError."""
    return {kind: open_lora(getattr(config, f"{kind}_file"), kind) for kind in FACTORS}


def check_fit(where: str, layers: Layers, denoiser: Any, base_model: str) -> None:
    """Raises UserError, led by `where`, for layers that misfit the base model, or are not linear."""
    fit(where, Contents(layers), denoiser, base_model)
    if odd := [name for name in layers if not isinstance(denoiser.get_submodule(name), nn.Linear)]:
        raise UserError(f"{where}: changes {odd[0]}, a convolution; give a LoRA of linear layers alone")


def check_both(loras: Mapping[str, Opened], denoiser: Any, base_model: str) -> None:
    """`check_fit` of the LoRAs of a content and a style."""
    for opened in loras.values():
        check_fit(opened.where, opened.layers, denoiser, base_model)


def words_in(loras: Mapping[str, Opened]) -> dict[str, str]:
    """Metadata: the prompts and trigger words that the files name, without "b4m."."""
    names = {f"b4m.{kind}_{key}" for kind in FACTORS for key in ("prompt", "trigger")}
    found = {**loras["style"].metadata, **loras["content"].metadata}
    return {name.removeprefix("b4m."): found[name] for name in sorted(names & found.keys())}


def learned_in(loras: Mapping[str, Opened]) -> int | None:
    """How many numbers were trained for all the files together; None where one of them does not say."""
    said = [opened.metadata.get(LEARNED, "") for opened in loras.values()]
    return sum(map(int, said)) if all(map(COUNT.fullmatch, said)) else None


def side_by_side(terms: Sequence[tuple[float, Layers]]) -> Layers:
    """The sum of weighted LoRAs as one LoRA: up [w_1 U_1, w_2 U_2 ...], down [D_1; D_2 ...], ranks added (Eq. 3)."""
    names = dict.fromkeys(name for _, layers in terms for name in layers)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name in names:
        held = [(weight, *layers[name]) for weight, layers in terms if name in layers]
        up = torch.cat([weight * up for weight, up, _ in held], dim=1)
        found[name] = up, torch.cat([down for *_, down in held])
    return found


class WritesLoras:
    """Part of a `Method` whose files are ordinary LoRAs, which the method lora puts on a base model."""

    name: str
    triggers = True
    by_sample = True
    two_dials = False

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> NoReturn:
        where = next(iter(files.values())).where
        raise UserError(f"{where}: names the method {self.name}, whose files are LoRAs; get the file again")
