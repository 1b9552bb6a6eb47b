"""Learning B and D of every layer (Sec. 4.1 and 4.2): what b4m's jobs and joint training share."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..backbones.footprint import free_bytes
from ..backbones.latent_diffusion import denoiser_hash
from ..backbones.protocol import Backbone
from ..config.stages import Factors
from ..config.training import LORA_FILE, TrainConfig
from ..core.errors import UserError
from ..core.storage import own
from ..data.inputs import Inputs
from ..files.concept import Concept, save_concept
from ..files.fused import spec_metadata
from ..files.lora import save_lora
from ..maths.adapter import Adapter
from ..maths.composing import Strength
from ..maths.plp import FACTORS, BasisSpec
from ..maths.stacks import Stacks
from .denoising import DenoisingLearner
from .directions import measure
from .protocol import Batch


class FactorLearner(DenoisingLearner):
    """B ("content/<layer>") and D ("style/<layer>") of an adapter, under the loss of Eq. 12.

    routed: a sample's gradient reaches its kind's factor alone, else both. lr: of either factor.
    """

    def __init__(
        self,
        backbone: Backbone,
        inputs: Inputs,
        config: TrainConfig,
        adapter: Adapter,
        routed: bool,
        lr: Mapping[str, float],
    ) -> None:
        super().__init__(backbone, inputs, config)
        self.adapter, self.lr = adapter, lr
        self.shows = inputs.shows if routed else None  # the kind that each sample trains
        self.named = {
            f"{kind}/{layer}": parameter
            for kind in FACTORS
            for layer, parameter in zip(adapter.layers, adapter.parameters_of(kind), strict=True)
        }
        backbone.attached = AttachedFactors(adapter, backbone)

    @cached_property
    def stacks(self) -> Stacks:
        """Made when the layers are on their device, since stacks stay where they are made."""
        return Stacks(self.adapter.pairs())

    @property
    def parameters(self) -> list[nn.Parameter]:
        return self.stacks.parameters

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW with a learning rate per factor."""
        groups = [{"params": stacked, "lr": self.lr[kind]} for kind, stacked in self.stacks.factors.items()]
        return torch.optim.AdamW(groups, weight_decay=self.config.weight_decay, fused=self.fused)

    def zero_grad(self) -> None:
        self.stacks.zero_grad()

    def gather(self) -> None:
        self.stacks.gather()

    def attention(self, batch: Batch) -> dict[str, Any]:
        if self.shows is None:
            return {"content_samples": None}
        return {"content_samples": sum(self.shows[place] == "content" for place in batch.places)}

    def learns_from(self, sample: int) -> set[str]:
        return set(FACTORS) if self.shows is None else {self.shows[sample]}


class StartedLearner(FactorLearner):
    """Factors that start from nothing: what contents read may have been measured for them."""

    @property
    def found(self) -> Mapping[str, Tensor]:
        if self.adapter.spec.inputs == "cosine":
            return {}
        return {f"inputs/{layer}": rows for layer, rows in self.adapter.inputs.items()}


def prodigy(learner: FactorLearner) -> torch.optim.Optimizer:
    """Adam that finds its rate while training (Mishchenko and Defazio 2023). Raises UserError where it is missing."""
    try:
        from prodigyopt import Prodigy
    except ImportError as error:
        raise UserError('--prodigy: its package is not installed; pip install "b4m[prodigy]"') from error
    config = learner.config
    with redirect_stdout(None):  # it tells of its weight decay there
        return Prodigy(learner.parameters, lr=config.lr, weight_decay=config.weight_decay)


SUMMED = 2  # copies of the adapted weights, of a sum of predictions: v(1, 0) and v(0, 1)
SPARED = 0.5  # share of the free memory that they may take


class AttachedFactors:
    """B and D on a denoiser, with a dial for each."""

    by_sample: ClassVar[bool] = True

    def __init__(self, adapter: Adapter, backbone: Backbone) -> None:
        self.adapter, self.backbone = adapter, backbone

    def arguments(self, content: Strength, style: Strength, *more: Strength) -> dict[str, Any]:
        assert not more  # than two go on as LoRAs
        return {"content_strength": content, "style_strength": style}

    def remove(self) -> None:
        self.adapter.remove(self.backbone.denoiser)


class FinishedFactors(AttachedFactors):
    """B and D that learn no more, so that sampling may fold them into copies of the weights."""

    def folding(self) -> AbstractContextManager[None]:
        """`Adapter.folding`; nothing where memory is short: then images take longer."""
        denoiser = self.backbone.denoiser
        copy = sum(denoiser.get_submodule(name).weight.nbytes for name in self.adapter.layers)
        scarce = SUMMED * copy > SPARED * free_bytes(denoiser.device)
        return nullcontext() if scarce else self.adapter.folding()


def spec_of(config: Factors) -> BasisSpec:
    """The basis that a job's settings describe."""
    return BasisSpec(
        config.basis_seed, config.rank, config.ratio, config.basis, config.basis_scale, config.inputs
    )


def adapter_of(backbone: Backbone, config: Factors) -> Adapter:
    """An adapter on the base model as a job starts it."""
    adapter = Adapter.install(backbone.denoiser, spec_of(config), config.layers)
    if adapter.spec.inputs == "principal" and adapter.spec.ratio:  # at 0 there is no C to read with
        measure(adapter, backbone, config.resolution)
    return adapter


def learned_by(adapter: Adapter) -> dict[str, str]:
    """Metadata: how many numbers the run of this adapter trains, those of a factor that it gives up among them."""
    learned = sum(parameter.numel() for kind in FACTORS for parameter in adapter.parameters_of(kind))
    return {"trained_parameters": str(learned)}


def concept_of(
    kind: str, adapter: Adapter, backbone: Backbone, metadata: Mapping[str, str], prompt: str, trigger: str
) -> Concept:
    """One factor of an adapter as it goes into a concept file; a content with what it reads, if that was measured."""
    measured = kind == "content" and adapter.spec.inputs == "principal"
    return Concept(
        kind,
        adapter.factor(kind),
        adapter.spec if measured else replace(adapter.spec, inputs="cosine"),
        adapter.choice,
        denoiser_hash(backbone.denoiser),
        {**metadata, **learned_by(adapter), "prompt": prompt, "trigger": trigger},
        {name: own(rows.cpu()) for name, rows in adapter.inputs.items()} if measured else {},
    )


def save_fused(
    folder: Path,
    adapter: Adapter,
    backbone: Backbone,
    metadata: Mapping[str, str],
    concepts: Mapping[str, Concept],
) -> None:
    """Both factors fused as an ordinary LoRA. concepts: whose prompts and trigger words it carries on."""
    words = {
        f"b4m.{kind}_{key}": concept.metadata[key]
        for kind, concept in concepts.items()
        for key in ("prompt", "trigger")
        if key in concept.metadata
    }
    basis = {
        **spec_metadata(adapter.spec),
        "b4m.layers": adapter.choice,
        "b4m.unet_hash": denoiser_hash(backbone.denoiser),
    }
    facts = {f"b4m.{key}": value for key, value in {**metadata, **learned_by(adapter)}.items()}
    stamp = backbone.stamp(backbone.denoiser, backbone.prediction_type)
    save_lora(folder / LORA_FILE, adapter.lora(), {**facts, **basis, **words, **stamp})


def save_concepts(folder: Path, concepts: Mapping[str, Concept]) -> None:
    for kind, concept in concepts.items():
        save_concept(folder / f"{kind}.safetensors", concept)
