"""The three training jobs as data: which pictures fill which rows, which half learns how, what comes out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from .adapter import Adapter, unet_hash
from .checkpoint import Concept, check_pair, load_concept, save_concept, save_lora, spec_metadata
from .config import TrainConfig
from .images import Picture, load_folder
from .objective import seeded
from .plp import HALVES, BasisSpec
from .riemannian import RiemannianAdamW, RiemannianSGD
from .sdxl import check_base
from .storage import fingerprint


@dataclass(frozen=True)
class Plan:
    """What tells one job from another."""

    targets: tuple[str, ...]  # kinds that config.<kind>_dir shows
    partner: str | None  # kind of the partners, one row each (Sec. 4.2)
    result: str  # file name

    @property
    def routed(self) -> bool:
        """Stage one sends a row's gradient to its kind's half alone (Eq. 12); the second stage to both."""
        return self.partner is not None


PLANS = {
    "content": Plan(("content",), "style", "content.safetensors"),
    "style": Plan(("style",), "content", "style.safetensors"),
    "second": Plan(("content", "style"), None, "pytorch_lora_weights.safetensors"),
}


@dataclass(frozen=True)
class Source:
    """Rows of one concept in every pass, cycling through its pictures."""

    kind: str  # "content" | "style"
    partner: bool
    pictures: tuple[int, ...]  # indices into Stage.pictures
    rows: int

    def pick(self, key: Sequence[int | str], position: int) -> int:
        """The picture in row number `position`, counted from the start, of the order seeded by `key`."""
        epoch, place = divmod(position, len(self.pictures))
        order = torch.randperm(len(self.pictures), generator=seeded("order", *key, epoch))
        return self.pictures[int(order[place])]


@dataclass(frozen=True)
class Stage:
    """One job with its inputs read and checked. Nothing here needs the base model."""

    name: str
    plan: Plan
    sources: tuple[Source, ...]  # content first
    pictures: tuple[Picture, ...]
    prompts: tuple[str, ...]  # of the pictures
    spec: BasisSpec
    layers: str
    concepts: dict[str, Concept]  # second stage: what it starts from

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        return sum(source.rows for source in self.sources)

    @property
    def content_rows(self) -> int | None:
        """How many of them, the first ones, train B alone; the others train D alone. None: all train both."""
        return sum(s.rows for s in self.sources if s.kind == "content") if self.plan.routed else None

    @property
    def is_target(self) -> torch.Tensor:
        """(rows,) bool: the rows of the first term of Eq. 12. In the second stage, the content's."""
        return torch.tensor(
            [
                not source.partner if self.plan.routed else source.kind == "content"
                for source in self.sources
                for _ in range(source.rows)
            ]
        )

    def facts(self) -> dict:
        """What the inputs hold, whatever the files are called."""
        halves = {f"{kind}_file": fingerprint(concept.tensors, {}) for kind, concept in self.concepts.items()}
        return {"pictures": [picture.sha256 for picture in self.pictures], "captions": self.prompts, **halves}

    def picked(self, seed: int, step: int) -> list[int]:
        """Pictures (rows,) of pass number `step`: a function of (seed, step, row) alone."""
        return [
            source.pick((seed, number), step * source.rows + row)
            for number, source in enumerate(self.sources)
            for row in range(source.rows)
        ]


def gather(config: TrainConfig) -> Stage:
    """Read pictures, captions and concept files of the job. Raises UserError for anything wrong with them."""
    plan = PLANS[config.stage]
    concepts = _concepts(config) if config.stage == "second" else {}
    groups = [
        (kind, False, folder, _target_prompt(config, concepts, kind))
        for kind in plan.targets
        for folder in [getattr(config, f"{kind}_dir")]
    ]
    partner_prompts = config.partner_prompts or [None] * len(config.partner_dirs)
    for folder, prompt in zip(config.partner_dirs if plan.partner else (), partner_prompts, strict=False):
        groups.append((plan.partner, True, folder, prompt or partner_prompt(plan.partner, folder)))
    groups.sort(key=lambda group: list(HALVES).index(group[0]))  # content first; partners keep their order

    pictures: list[Picture] = []
    prompts: list[str] = []
    sources = []
    for kind, partner, folder, prompt in groups:
        found = load_folder(folder, config.resolution, config.fit)
        indices = tuple(range(len(pictures), len(pictures) + len(found)))
        sources.append(Source(kind, partner, indices, 1 if partner else config.target_rows))
        pictures += found
        prompts += [picture.caption or prompt for picture in found]
    spec = BasisSpec(config.basis_seed, config.rank, config.ratio, config.basis, config.basis_scale)
    layers = config.layers
    if concepts:
        spec, layers = concepts["content"].spec, concepts["content"].layers
    return Stage(config.stage, plan, tuple(sources), tuple(pictures), tuple(prompts), spec, layers, concepts)


def _concepts(config: TrainConfig) -> dict[str, Concept]:
    concepts = {kind: load_concept(getattr(config, f"{kind}_file")) for kind in HALVES}
    check_pair(concepts["content"], concepts["style"])
    return concepts


def _target_prompt(config: TrainConfig, concepts: dict[str, Concept], kind: str) -> str:
    """Stage one: --prompt, or trigger and class words; second stage: what the concept file tells."""
    if kind in concepts and "prompt" in concepts[kind].metadata:
        return concepts[kind].metadata["prompt"]
    return config.prompt or getattr(config, f"{kind}_prompt")


def partner_prompt(kind: str, folder: str) -> str:
    """Caption of a partner without one: "styles/02_paper-cut.png" -> "a picture in paper cut style"."""
    name = " ".join(re.findall(r"[^\W\d_]+", Path(folder).stem)) or "another"
    return f"a photo of {name}" if kind == "content" else f"a picture in {name} style"


def install(stage: Stage, unet: UNet2DConditionModel, base_model: str) -> Adapter:
    """The adapter as the job starts: the identity, or exactly the B and D of the two files."""
    for kind, concept in stage.concepts.items():
        check_base(concept.unet_hash, unet, f"the {kind} file", base_model)
    adapter = Adapter.install(unet, stage.spec, stage.layers)
    for kind, concept in stage.concepts.items():
        adapter.load_half(kind, concept.tensors)
    return adapter


def optimizer(stage: Stage, config: TrainConfig, adapter: Adapter) -> torch.optim.Optimizer:
    """Stage one: AdamW with a learning rate per half; second stage: what --optimizer says (Sec. 4.3)."""
    lr = dict.fromkeys(HALVES, config.lr)
    if stage.plan.routed:
        lr[stage.plan.partner] = config.partner_lr
    if stage.plan.routed or config.optimizer == "adamw":
        groups = [{"params": adapter.parameters_of(half), "lr": lr[half]} for half in HALVES]
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    options = {} if config.damping is None else {"damping": config.damping}
    cls = {"riemannian-adamw": RiemannianAdamW, "riemannian-sgd": RiemannianSGD}[config.optimizer]
    return cls(adapter.pairs(), lr=config.lr, weight_decay=config.weight_decay, **options)


def save(
    stage: Stage,
    config: TrainConfig,
    adapter: Adapter,
    unet: UNet2DConditionModel,
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write the result: the target's half as a concept file, or both halves fused as an ordinary LoRA."""
    kind = stage.plan.targets[0]
    if stage.plan.routed:
        words = {"prompt": _target_prompt(config, {}, kind), "trigger": getattr(config, f"{kind}_trigger")}
        concept = Concept(
            kind, adapter.half(kind), stage.spec, stage.layers, unet_hash(unet), {**metadata, **words}
        )
        return save_concept(path, concept)
    words = {
        f"b4m.{kind}_{key}": concept.metadata[key]
        for kind, concept in stage.concepts.items()
        for key in ("prompt", "trigger")
        if key in concept.metadata
    }
    own = {
        **spec_metadata(stage.spec),
        "b4m.layers": stage.layers,
        "b4m.unet_hash": stage.concepts["content"].unet_hash,
    }
    save_lora(path, adapter.lora(), {**{f"b4m.{k}": v for k, v in metadata.items()}, **own, **words})
