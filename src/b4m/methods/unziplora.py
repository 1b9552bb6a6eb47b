"""UnZipLoRA (Liu et al. 2025, arXiv 2412.04465): a content's and a style's LoRA that share out one image between them.

Its own setting is one image that holds both. A pair here has images of a content and images of a style, which show two
different things; so each concept has a run of its own, in which its images are unzipped like any other (a photograph is
a content and how photographs look, a drawing a style and what it happens to show), the LoRA of the concept's kind is
kept, and the two that are kept are added, as the paper recombines two images. Columns are kept apart within a run, not
across the two.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.cache import Cache
from ..backbones.protocol import Backbone
from ..config.fields import setting
from ..config.training import LORA_FILE, ShowsContent, ShowsStyle, TrainConfig
from ..core.errors import UserError
from ..data.inputs import KINDS, Inputs
from ..files.lora import Layers
from ..maths.adapter import PROJECTIONS
from ..maths.columns import best, column_scores
from ..maths.plp import BasisSpec, start
from .added import Additions
from .denoising import DenoisingLearner, DenoisingTask, one_dial
from .low_rank import DirectSumConfig, WritesLoras, count, kind_of, opened_base, save_ordinary, words_of
from .protocol import Batch, Pair
from .tokens import check_captions

OPEN = {
    "content": ("up_blocks.0.attentions.0.", "up_blocks.0.attentions.2."),
    "style": ("up_blocks.0.attentions.1.", "up_blocks.1."),
}  # where a kind has all columns (block separation); all other columns are chosen
READS_PROMPT = ("attn2.to_k", "attn2.to_v")
MERGER, CHOSEN, SCORE = range(3)  # what is known of a column
PHOTO = "a photo of "  # the words for how a content's images look


@dataclass(frozen=True, kw_only=True)
class UnZip(TrainConfig):
    """Settings of a training of both LoRAs, of which one is kept. The paper shows a single image."""

    own_presets = {
        "sdxl": dict(steps=600, lr=5e-5, gradient_accumulation=1),
        "embedded": dict(lr=6e-4, steps=100, period=33),
    }

    rank: int = setting("rank of either LoRA", 64, low=1)
    merger_lr: float = setting("learning rate of the mergers", 5e-3, low=0, high=1000)
    period: int = setting("steps from one choice of columns to the next", 200, low=1)
    column_share: float = setting("share of a layer's columns that are chosen each time", 0.1, low=0, high=1)
    overlap_weight: float = setting(
        "weight of the term that keeps both from using one column", 0.5, low=0, high=1e6
    )


@dataclass(frozen=True, kw_only=True)
class UnZipContentConfig(ShowsContent, UnZip):
    """From a content's images; its LoRA is kept."""

    stage, result, needs = "unziplora-content", LORA_FILE, ("content_dir",)


@dataclass(frozen=True, kw_only=True)
class UnZipStyleConfig(ShowsStyle, UnZip):
    """From a style's images; its LoRA is kept."""

    stage, result, needs = "unziplora-style", LORA_FILE, ("style_dir",)


def apart(caption: str, config: UnZipContentConfig | UnZipStyleConfig) -> dict[str, str]:
    """Prompt separation: what each kind's LoRA is told of an image, while the base model's weights read its caption.

    The content's is not told of the style, nor the style's of the content's name.
    """
    if isinstance(config, UnZipContentConfig):
        return {"content": caption.removeprefix(PHOTO), "style": _without(caption, config.content_trigger)}
    trigger = config.style_trigger
    plain = re.sub(rf"\s*\bin {re.escape(trigger)} (.*? )?style\b", "", caption)
    return {"content": _without(plain, trigger), "style": caption}


def _without(caption: str, trigger: str) -> str:
    return " ".join(word for word in caption.split() if word != trigger)


@dataclass(frozen=True)
class Periods:
    """Steps, counted from 0. A period begins with a window, in which all columns are at work and are scored."""

    length: int
    window: int

    def opens(self, step: int) -> bool:
        return step % self.length == 0

    def is_open(self, step: int) -> bool:
        return step % self.length < self.window

    def closes(self, step: int) -> bool:
        return step % self.length == self.window - 1


def periods_of(config: UnZip, inputs: Inputs) -> Periods:
    """A window is one round of the images and a step before it, after which no dW is zero any more."""
    samples = inputs.samples * config.gradient_accumulation
    return Periods(config.period, min(config.period, 1 + math.ceil(len(inputs.images) / samples)))


class UnZipped(nn.Module):
    """Both LoRAs of one layer, each with a weight for every column: sum_k diag(w_k) U_k D_k x_k.

    columns: by kind (3, m), the rows MERGER in [0, 1], CHOSEN 0 or 1, SCORE of the last window: one tensor, so that a
    training state holds all of it. sparse: the kinds whose columns are chosen here; the others have all.
    """

    def __init__(self, loras: Mapping[str, tuple[Tensor, Tensor]], sparse: Sequence[str]) -> None:
        super().__init__()
        self.up, self.down, self.columns = (nn.ParameterDict() for _ in range(3))
        for kind, (up, down) in loras.items():
            self.up[kind], self.down[kind] = nn.Parameter(up), nn.Parameter(down)
            self.columns[kind] = nn.Parameter(torch.tensor([[1.0], [1.0], [0.0]]).repeat(1, len(up)))
        self.sparse = tuple(sparse)
        self.shown: Sequence[str] = KINDS
        self.told: Mapping[str, Tensor] = {}  # by kind, tokens in place of the layer's own input
        self.open, self.strength = False, 1.0

    def weights(self, kind: str) -> Tensor:
        """w (m,): the mergers, of the chosen columns or, in a window, of all."""
        merger, chosen, _ = self.columns[kind]
        return merger if self.open else merger * chosen.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(samples, tokens, n) -> (samples, tokens, m)."""
        terms = [self._term(kind, self.told.get(kind, x).to(x.dtype)) for kind in self.shown]
        return self.strength * sum(terms[1:], terms[0])

    def _term(self, kind: str, x: Tensor) -> Tensor:
        up, down, weights = (
            part.to(x.dtype) for part in (self.up[kind], self.down[kind], self.weights(kind))
        )
        return weights * ((x @ down.T) @ up.T)

    def lora(self, kind: str) -> tuple[Tensor, Tensor]:
        """(up (m, r), down (r, n)) of one kind, its weights folded in."""
        return self.weights(kind)[:, None] * self.up[kind], self.down[kind]

    def overlap(self) -> Tensor:
        """mean_i |w_content,i w_style,i|."""
        return (self.weights("content") * self.weights("style")).abs().mean()

    def shared(self) -> Tensor:
        """(m,) 1 for columns that both have, 0 for others: where mergers learn."""
        return self.columns["content"][CHOSEN] * self.columns["style"][CHOSEN]

    @torch.no_grad()
    def score(self, anew: bool) -> None:
        """Add up, or begin to, what the gradients say of each column."""
        for kind, columns in self.columns.items():
            up, down = self.up[kind], self.down[kind]
            found = column_scores(up, down, up.grad, down.grad)
            columns[SCORE] = found if anew else columns[SCORE] + found

    @torch.no_grad()
    def choose(self, share: float, first: bool) -> None:
        """The best columns join those of earlier periods; the content chooses first, the style avoids its choice."""
        for kind in self.sparse:
            columns = self.columns[kind]
            avoids = kind == "style" and "content" in self.sparse
            taken = self.columns["content"][CHOSEN].bool() if avoids else None
            new = best(columns[SCORE], share, taken).float()
            columns[CHOSEN] = new if first else torch.maximum(columns[CHOSEN], new)


class AttachedUnZipped:
    """All layers of a training on a denoiser. Samples show what its file will be: the kept LoRA, with one dial."""

    def __init__(self, backbone: Backbone, modules: Mapping[str, UnZipped], kept: str) -> None:
        self.modules, self.kept = modules, kept
        self.additions = Additions(backbone.denoiser, modules)

    def arguments(self, content: float, style: float) -> None:
        for module in self.modules.values():
            module.shown, module.told, module.open = (self.kept,), {}, False
            module.strength = one_dial(content, style)

    def teach(self, told: Mapping[str, Tensor], is_open: bool) -> None:
        """Both LoRAs at work, each with its own tokens (samples, tokens, n) of the prompt."""
        for name, module in self.modules.items():
            module.shown, module.open, module.strength = KINDS, is_open, 1.0
            module.told = told if name.endswith(READS_PROMPT) else {}

    def overlap(self) -> Tensor:
        """Mean over layers."""
        return torch.stack([module.overlap() for module in self.modules.values()]).mean()

    def remove(self) -> None:
        self.additions.remove()


def install(backbone: Backbone, config: UnZip) -> AttachedUnZipped:
    """Both LoRAs on every attention layer, dW = 0. Raises UserError for a base model without the blocks in OPEN."""
    denoiser, modules = backbone.denoiser, {}
    check_blocks(backbone)
    for path in (name.removesuffix(".processor") for name in denoiser.attn_processors):
        sparse = [kind for kind in KINDS if not path.startswith(OPEN[kind])]
        for name in (f"{path}.{projection}" for projection in PROJECTIONS):
            m, n = denoiser.get_submodule(name).weight.shape
            seeds = {kind: 2 * config.seed + number for number, kind in enumerate(KINDS)}
            specs = {kind: BasisSpec(seed, config.rank, 0.0, "random") for kind, seed in seeds.items()}
            modules[name] = UnZipped({kind: start(spec, name, m, n) for kind, spec in specs.items()}, sparse)
    return AttachedUnZipped(backbone, modules, kind_of(config))


def check_blocks(backbone: Backbone) -> None:
    """Raises UserError for a base model where a kind would have no block of its own."""
    names = list(backbone.denoiser.attn_processors)
    for kind, (block, *_) in OPEN.items():
        if not any(name.startswith(block) for name in names):
            raise UserError(
                f"base model {backbone.name}: has no attention in {block[:-1]}, which UnZipLoRA leaves to the {kind}; "
                "give one built like Stable Diffusion XL"
            )


class UnZipTask(DenoisingTask):
    """One concept's images, whose captions hold its trigger word: without it both LoRAs would be told the same."""

    def __init__(self, config: UnZip) -> None:
        kind = kind_of(config)
        prompt, trigger = (getattr(config, f"{kind}_{name}") for name in ("prompt", "trigger"))
        super().__init__(config, {kind: prompt}, prompt)
        check_captions(self.inputs.prompts, trigger)

    def start(self, backbone: Backbone) -> "UnZipLearner":
        return UnZipLearner(backbone, self.inputs, self.config)


class UnZipLearner(DenoisingLearner):
    """Both LoRAs ("content_up/<layer>" ...) and their columns learn to denoise the images together."""

    def __init__(self, backbone: Backbone, inputs: Inputs, config: UnZip) -> None:
        super().__init__(backbone, inputs, config)
        self.periods = periods_of(config, inputs)
        self.unzipped = backbone.attached = install(backbone, config)
        self.loras = self._named("up") | self._named("down")
        self.columns = self._named("columns")
        self.named = self.loras | self.columns
        self.told: dict[str, tuple[Tensor, Tensor]] = {}  # by kind: tokens of prompts, which one an image has
        self.stepper: torch.optim.Optimizer | None = None

    def _named(self, part: str) -> dict[str, nn.Parameter]:
        return {
            f"{kind}_{part}/{name}": getattr(module, part)[kind]
            for kind in KINDS
            for name, module in self.unzipped.modules.items()
        }

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW; as it steps, columns are scored, chosen and kept in range."""
        groups = [
            {"params": [*self.loras.values()], "lr": self.config.lr},
            {"params": [*self.columns.values()], "lr": self.config.merger_lr, "weight_decay": 0.0},
        ]
        self.stepper = torch.optim.AdamW(groups, weight_decay=self.config.weight_decay, fused=self.fused)
        self.stepper.register_step_pre_hook(lambda *_: self._before(self.taken))
        self.stepper.register_step_post_hook(lambda *_: self._after(self.taken - 1))
        return self.stepper

    @property
    def taken(self) -> int:
        """Steps so far, of which the optimizer's state knows."""
        state = self.stepper.state.get(next(iter(self.loras.values()))) if self.stepper else None
        return int(state["step"]) if state else 0

    @torch.no_grad()
    def gather(self) -> None:
        """Mergers learn where both have a column, and not in a window."""
        is_open = self.periods.is_open(self.taken)
        for module in self.unzipped.modules.values():
            for columns in module.columns.values():
                columns.grad.mul_(0 if is_open else module.shared())

    def _before(self, step: int) -> None:
        """In a window columns are scored; mergers are left out of the step, or what they learned before would go on."""
        if not self.periods.is_open(step):
            return
        for parameter in self.columns.values():
            parameter.grad = None
        for module in self.unzipped.modules.values():
            module.score(anew=self.periods.opens(step))

    @torch.no_grad()
    def _after(self, step: int) -> None:
        """Mergers stay in [0, 1], and where a window ends columns are chosen."""
        for module in self.unzipped.modules.values():
            for columns in module.columns.values():
                columns[MERGER].clamp_(0, 1)
            if self.periods.closes(step):
                module.choose(self.config.column_share, first=step < self.periods.length)

    def encode(self, device: torch.device) -> Cache:
        cache = super().encode(device)
        told = [apart(caption, self.config) for caption in self.inputs.prompts]
        for kind in KINDS:
            unique = list(dict.fromkeys(each[kind] for each in told))
            with torch.no_grad():
                rows = self.backbone.encode_prompts(unique)["hidden"].to(device, self.backbone.denoiser.dtype)
            self.told[kind] = rows, torch.tensor([unique.index(each[kind]) for each in told], device=device)
        return cache

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        is_open = self.periods.is_open(self.taken)
        told = {kind: rows[prompts[batch.images]] for kind, (rows, prompts) in self.told.items()}
        self.unzipped.teach(told, is_open)
        loss, losses = super().loss(batch)
        if is_open:
            return loss, losses
        share = len(batch.images) / self.inputs.samples  # of the micro-batch, which may come in parts
        return loss + self.config.overlap_weight * share * self.unzipped.overlap(), losses

    @torch.no_grad()
    def measured(self, step: int) -> dict[str, Tensor]:
        """Each kind's share of columns and their mean merger, and what both use in common."""
        found = {}
        for kind in KINDS:
            columns = torch.cat([module.columns[kind] for module in self.unzipped.modules.values()], dim=1)
            found[f"chosen_{kind}"] = columns[CHOSEN].mean()
            found[f"merger_{kind}"] = columns[MERGER].mean()
        return {**found, "overlap": self.unzipped.overlap()}

    @torch.no_grad()
    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        self.unzipped.arguments(1.0, 1.0)
        kind = kind_of(self.config)
        layers: Layers = {}
        for name, module in self.unzipped.modules.items():
            up, down = module.lora(kind)
            layers[name] = up.cpu(), down.detach().cpu()
        learned = count(self.loras) + sum(columns.shape[1] for columns in self.columns.values())
        metadata = {**facts, **words_of(self.config, kind)}
        save_ordinary(folder / LORA_FILE, layers, opened_base(self.backbone), metadata, "unziplora", learned)


class UnZipLora(WritesLoras):
    """The method: the content's LoRA of one run and the style's of another are added."""

    name, doc = (
        "unziplora",
        "each concept's images split into a content's and a style's LoRA, one kept of each (UnZipLoRA)",
    )
    jobs = (UnZipContentConfig, UnZipStyleConfig)

    def task(self, config: Any) -> UnZipTask:
        return UnZipTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(UnZipContentConfig), pair.train(UnZipStyleConfig)
        return {"lora_file": pair.train(DirectSumConfig, content_file=content, style_file=style)}
