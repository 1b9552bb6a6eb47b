"""B4M: content and style learned apart, each beside partners (Sec. 4.2), then tuned together (Sec. 4.3)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backbones.cache import Cache
from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Attached, Backbone
from ..config.stages import ContentConfig, SecondConfig, StyleConfig
from ..config.training import TrainConfig
from ..core.errors import UserError
from ..core.storage import fingerprint
from ..core.transfer import sent
from ..data.inputs import Inputs
from ..files.concept import Concept, check_pair, read_concept
from ..files.fused import inputs_in, split_lora
from ..files.opening import Opened, open_any, refuse_method_files
from ..maths.adapter import Adapter
from ..maths.objective import sample_losses
from ..maths.plp import FACTORS
from ..maths.riemannian import RiemannianAdamW, RiemannianSGD
from .denoising import DenoisingTask
from .factors import (
    AttachedFactors,
    FactorLearner,
    FinishedFactors,
    StartedLearner,
    adapter_of,
    concept_of,
    prodigy,
    save_concepts,
    save_fused,
)
from .prior import draw_prior, with_prior
from .protocol import Batch, Pair, Task
from .teaching import Teacher, draw_teacher, lessons_of, with_teacher

OTHER = {"content": "style", "style": "content"}


class StageOne(DenoisingTask):
    """One concept beside partners of the other kind, from nothing."""

    def __init__(self, config: ContentConfig | StyleConfig) -> None:
        kind = config.stage
        prompt = config.prompt or getattr(config, f"{kind}_prompt")
        super().__init__(config, {kind: prompt}, prompt, partner=OTHER[kind])
        self.inputs = with_prior(replace(self.inputs, partner_samples=config.partner_samples), config)

    def start(self, backbone: Backbone) -> "StageOneLearner":
        config = self.config
        self.inputs = draw_prior(self.inputs, config, backbone)  # by the base model as it is
        adapter = adapter_of(backbone, config)
        lr = {config.stage: config.lr, OTHER[config.stage]: config.partner_lr}
        return StageOneLearner(backbone, self.inputs, config, adapter, config.routing, lr)


class StageOneLearner(StartedLearner):
    """Keeps the factor of its own kind; the partners' is given up."""

    def optimizer(self) -> torch.optim.Optimizer:
        return prodigy(self) if self.config.prodigy else super().optimizer()

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        config, kind = self.config, self.config.stage
        prompt = config.prompt or getattr(config, f"{kind}_prompt")
        trigger = getattr(config, f"{kind}_trigger")
        save_concepts(folder, {kind: concept_of(kind, self.adapter, self.backbone, facts, prompt, trigger)})


class SecondStage(DenoisingTask):
    """Both concepts together, from the B and D of their files, under a Riemannian precondition."""

    def __init__(self, config: SecondConfig) -> None:
        self.concepts = _concepts(config)
        check_pair(self.concepts["content"], self.concepts["style"])
        prompts = {
            kind: concept.metadata.get("prompt", getattr(config, f"{kind}_prompt"))
            for kind, concept in self.concepts.items()
        }
        triggers = {kind: concept.metadata.get("trigger", "") for kind, concept in self.concepts.items()}
        shown = {} if config.objective == "distill" else prompts
        super().__init__(config, shown, config.both_prompt, triggers=triggers)
        self.lessons = [] if config.objective == "pictures" else lessons_of(config, self.concepts)
        if self.lessons:
            self.inputs = with_teacher(self.inputs, config, self.lessons)

    def facts(self) -> dict[str, Any]:
        files = {
            f"{kind}_file": fingerprint(concept.everything, {}) for kind, concept in self.concepts.items()
        }
        return {**super().facts(), **files}

    def start(self, backbone: Backbone) -> "SecondStageLearner":
        adapter, teacher = install(backbone, self.concepts), None
        if self.lessons:
            backbone.attached = AttachedFactors(adapter, backbone)
            self.inputs, teacher = draw_teacher(
                self.inputs, self.config, backbone, self.lessons, self.concepts
            )
        return SecondStageLearner(backbone, self.inputs, self.config, adapter, self.concepts, teacher)


def _concepts(config: SecondConfig) -> dict[str, Concept]:
    """The content and the style. Raises UserError for other files; for LoRAs made elsewhere with what takes them."""
    files = {kind: open_any(getattr(config, f"{kind}_file")) for kind in FACTORS}
    elsewhere = [kind for kind, opened in files.items() if opened.from_elsewhere]
    if not elsewhere:
        return {
            kind: opened.concept or read_concept(opened.where, opened.tensors, opened.metadata)
            for kind, opened in files.items()
        }
    both = " ".join(f"--{kind}-file {quote(opened.where)}" for kind, opened in files.items())
    first = "" if len(elsewhere) == 2 else " (write the concept file as a LoRA first, with b4m export)"
    raise UserError(
        f"{files[elsewhere[0]].where}: a LoRA made elsewhere, not a concept file, and only the frozen parts of those "
        f"fit each other; what takes two LoRAs{first}: b4m train direct-sum {both}; b4m train k-lora with the same "
        "two; b4m train ziplora with these and --content-dir and --style-dir, all with this --base-model and --preset; "
        "or b4m generate, which draws their sum"
    )


class SecondStageLearner(FactorLearner):
    """Every sample trains both factors."""

    def __init__(
        self,
        backbone: Backbone,
        inputs: Inputs,
        config: SecondConfig,
        adapter: Adapter,
        concepts: Mapping[str, Concept],
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(backbone, inputs, config, adapter, False, dict.fromkeys(FACTORS, config.lr))
        self.concepts, self.teacher = concepts, teacher

    def optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        if config.optimizer == "adamw":
            return super().optimizer()
        options = {} if config.damping is None else {"damping": config.damping}
        cls = {"riemannian-adamw": RiemannianAdamW, "riemannian-sgd": RiemannianSGD}[config.optimizer]
        return cls(self.stacks.pairs, lr=config.lr, weight_decay=config.weight_decay, **options)

    def encode(self, device: torch.device) -> Cache:
        cache = super().encode(device)
        if self.teacher is None:
            return cache
        self.teacher = self.teacher.to(device)
        return self.teacher.retell(cache)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The paper's, of references; of the teacher's states the mean squared distance from its answers."""
        if self.teacher is None:
            return super().loss(batch)
        taught = [source.prior for source in self.inputs.sources for _ in range(source.samples)]
        rows: dict[bool, list[int]] = {False: [], True: []}
        for row, sample in enumerate(batch.places):
            rows[taught[sample]].append(row)
        parts = [
            (of_kind(batch.of(some)), some)
            for of_kind, some in ((super().loss, rows[False]), (self._distilled, rows[True]))
            if some
        ]
        losses = torch.cat([each for (_, each), _ in parts])
        order = torch.tensor([row for _, some in parts for row in some]).argsort()
        return torch.stack([total for (total, _), _ in parts]).sum(), losses[sent(order, losses.device)]

    def _distilled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        assert self.teacher is not None
        states, timesteps, answers = self.teacher.at(batch.images, batch.timesteps, len(self._alphas_cumprod))
        attention = self.attention(batch)
        losses = sample_losses(self.backbone.predict(states, timesteps, batch.conditions, attention), answers)
        return (batch.weights * losses).sum(), losses.detach()

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        if self.teacher is not None:
            told = (
                "objective",
                "content_weight",
                "style_weight",
                "teacher_paths",
                "teacher_guidance",
                "optimizer",
            )
            facts = {**facts, **{name: str(getattr(config, name)) for name in told}}
        save_fused(folder, self.adapter, self.backbone, facts, self.concepts)


def install(
    backbone: Backbone, concepts: Mapping[str, Concept], names: Mapping[str, str] | None = None
) -> Adapter:
    """An adapter with exactly the factors of concept files; a factor that is not given is as before training.

    names: what the files are called, for an error line. Raises UserError for files of another base model.
    """
    for kind, concept in concepts.items():
        what = (names or {}).get(kind, f"the {kind} file")
        check_base(concept.unet_hash, backbone.denoiser, what, backbone.name)
    first = concepts.get("content") or concepts["style"]
    adapter = Adapter.install(backbone.denoiser, first.spec, first.layers)
    return _load(
        adapter, backbone, {kind: concept.tensors for kind, concept in concepts.items()}, first.inputs
    )


def _load(
    adapter: Adapter,
    backbone: Backbone,
    factors: Mapping[str, Mapping[str, Tensor]],
    inputs: Mapping[str, Tensor],
) -> Adapter:
    """The adapter with these factors, by kind, and with what C reads where that is not the spec's.

    Raises UserError where they misfit, and then takes it off again.
    """
    try:
        for kind, tensors in factors.items():
            adapter.load_factor(kind, tensors)
        if inputs:
            adapter.load_inputs(inputs)
    except UserError:
        adapter.remove(backbone.denoiser)
        raise
    return adapter.to(backbone.denoiser.device)


def _take_apart(backbone: Backbone, fused: Opened) -> Adapter:
    """An adapter with the factors of a fused file."""
    assert fused.spec is not None  # or it would be no file of this method
    check_base(fused.metadata.get("b4m.unet_hash", ""), backbone.denoiser, fused.where, backbone.name)
    try:
        factors = split_lora(fused.layers, fused.spec)
        inputs = inputs_in(fused.layers, fused.spec)
    except UserError as error:
        raise UserError(f"{fused.where}: {error}") from error
    adapter = Adapter.install(backbone.denoiser, fused.spec, fused.metadata["b4m.layers"])
    return _load(adapter, backbone, dict(zip(FACTORS, factors, strict=True)), inputs)


class B4M:
    """The whole method."""

    name, doc = "b4m", "content and style of stage one, then the second stage"
    jobs: ClassVar[tuple[type[TrainConfig], ...]] = (ContentConfig, StyleConfig, SecondConfig)
    triggers = True
    by_sample = True
    two_dials = True

    def task(self, config: Any) -> Task:
        return SecondStage(config) if isinstance(config, SecondConfig) else StageOne(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(ContentConfig), pair.train(StyleConfig)
        return {"lora_file": pair.train(SecondConfig, content_file=content, style_file=style)}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        """A content, a style, both composed, or a fused file taken apart again."""
        refuse_method_files(files)
        if "lora" in files:
            return FinishedFactors(_take_apart(backbone, files["lora"]), backbone)
        concepts = {role: opened.concept for role, opened in files.items() if opened.concept}
        names = {role: opened.where for role, opened in files.items()}
        if len(concepts) == 2:
            for role, concept in concepts.items():
                check_base(concept.unet_hash, backbone.denoiser, names[role], backbone.name)
            check_pair(concepts["content"], concepts["style"])
        return FinishedFactors(install(backbone, concepts, names), backbone)


class Composed(B4M):
    """Without the second stage."""

    name, doc = "composed", "content and style of stage one, without a second stage"
    jobs = ()

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"content_file": pair.train(ContentConfig), "style_file": pair.train(StyleConfig)}


class ContentAlone(B4M):
    """The content without a style."""

    name, doc = "content", "the content alone (stage one)"
    jobs = ()

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"content_file": pair.train(ContentConfig)}


class StyleAlone(B4M):
    """The style without a content."""

    name, doc = "style", "the style alone (stage one)"
    jobs = ()

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"style_file": pair.train(StyleConfig)}
