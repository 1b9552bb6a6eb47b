"""The training jobs as data: which pictures fill which rows, which half learns how, what comes out."""

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
from .stacks import Stacks
from .storage import fingerprint


@dataclass(frozen=True)
class Plan:
    """What tells one job from another."""

    targets: tuple[str, ...]  # kinds that config.<kind>_dir shows
    partner: str | None  # kind of the partners, one row each (Sec. 4.2)
    result: str  # file name
    makes: tuple[str, ...] = ()  # kinds it writes a concept file of


FUSED = "pytorch_lora_weights.safetensors"
PLANS = {
    "content": Plan(("content",), "style", "content.safetensors", ("content",)),
    "style": Plan(("style",), "content", "style.safetensors", ("style",)),
    "second": Plan(("content", "style"), None, FUSED),
    # What the paper compares with: one run for one content and one style (JTtrain, w/o MCP-I).
    "joint": Plan(("content", "style"), None, FUSED, ("content", "style")),
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
    routed: bool  # a row's gradient reaches its kind's half alone (Eq. 12), else both
    concepts: dict[str, Concept]  # second stage: what it starts from

    @property
    def rows(self) -> int:
        """Rows of one pass."""
        return sum(source.rows for source in self.sources)

    @property
    def content_rows(self) -> int | None:
        """How many of them, the first ones, train B alone; the others train D alone. None: all train both."""
        return sum(s.rows for s in self.sources if s.kind == "content") if self.routed else None

    @property
    def is_target(self) -> torch.Tensor:
        """(rows,) bool: the rows of the first term of Eq. 12; where both kinds are targets, the content's."""
        return torch.tensor(
            [
                not source.partner if self.plan.partner else source.kind == "content"
                for source in self.sources
                for _ in range(source.rows)
            ]
        )

    def facts(self) -> dict:
        """What the inputs hold, whatever the files are called."""
        halves = {f"{kind}_file": fingerprint(concept.tensors, {}) for kind, concept in self.concepts.items()}
        return {"pictures": [picture.sha256 for picture in self.pictures], "captions": self.prompts, **halves}

    def shown(self) -> list[dict]:
        """What pictures.json says: which pictures fill the rows, under which prompts."""
        return [
            {
                "file": str(self.pictures[number].path),
                "sha256": self.pictures[number].sha256,
                "prompt": self.prompts[number],
                "shows": f"partner {source.kind}" if source.partner else source.kind,
            }
            for source in self.sources
            for number in source.pictures
        ]

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
        (kind, False, getattr(config, f"{kind}_dir"), _target_prompt(config, concepts, kind))
        for kind in plan.targets
    ]
    partner_prompts = config.partner_prompts or [None] * len(config.partner_dirs)
    for folder, prompt in zip(config.partner_dirs if plan.partner else (), partner_prompts, strict=False):
        groups.append((plan.partner, True, (folder,), prompt or partner_prompt(plan.partner, folder)))
    groups.sort(key=lambda group: list(HALVES).index(group[0]))  # content first; partners keep their order

    pictures: list[Picture] = []
    prompts: list[str] = []
    sources = []
    for kind, partner, folders, prompt in groups:
        found = [p for folder in folders for p in load_folder(folder, config.resolution, config.fit)]
        indices = tuple(range(len(pictures), len(pictures) + len(found)))
        sources.append(Source(kind, partner, indices, 1 if partner else config.target_rows))
        pictures += found
        prompts += [picture.caption or prompt for picture in found]
    spec = BasisSpec(config.basis_seed, config.rank, config.ratio, config.basis, config.basis_scale)
    layers = config.layers
    routed = config.routing and not concepts
    if concepts:
        spec, layers = concepts["content"].spec, concepts["content"].layers
    return Stage(
        config.stage, plan, tuple(sources), tuple(pictures), tuple(prompts), spec, layers, routed, concepts
    )


def _concepts(config: TrainConfig) -> dict[str, Concept]:
    concepts = {kind: load_concept(getattr(config, f"{kind}_file")) for kind in HALVES}
    check_pair(concepts["content"], concepts["style"])
    return concepts


def _target_prompt(config: TrainConfig, concepts: dict[str, Concept], kind: str) -> str:
    """Stage one: --prompt, or trigger and class words; second stage: what the concept file tells."""
    if kind in concepts and "prompt" in concepts[kind].metadata:
        return concepts[kind].metadata["prompt"]
    return config.stage == kind and config.prompt or getattr(config, f"{kind}_prompt")


def partner_prompt(kind: str, folder: str) -> str:
    """Caption of a partner without one: "styles/02_paper-cut.png" -> "a picture in paper cut style"."""
    name = " ".join(re.findall(r"[^\W\d_]+", Path(folder).stem)) or "another"
    return f"a photo of {name}" if kind == "content" else f"a picture in {name} style"


def preview_prompt(config: TrainConfig) -> str:
    """What a run's sample pictures show: the concept that is learned, or both."""
    if config.stage in ("second", "joint"):
        return config.both_prompt
    return config.prompt or (config.content_prompt if config.stage == "content" else config.style_prompt)


def install(stage: Stage, unet: UNet2DConditionModel, base_model: str) -> Adapter:
    """The adapter as the job starts: the identity, or exactly the B and D of the two files."""
    for kind, concept in stage.concepts.items():
        check_base(concept.unet_hash, unet, f"the {kind} file", base_model)
    adapter = Adapter.install(unet, stage.spec, stage.layers)
    for kind, concept in stage.concepts.items():
        adapter.load_half(kind, concept.tensors)
    return adapter


def optimizer(stage: Stage, config: TrainConfig, stacks: Stacks) -> torch.optim.Optimizer:
    """From nothing: AdamW with a learning rate per half; second stage: what --optimizer says (Sec. 4.3)."""
    lr = dict.fromkeys(HALVES, config.lr)
    if stage.plan.partner:
        lr[stage.plan.partner] = config.partner_lr
    if not stage.concepts or config.optimizer == "adamw":
        groups = [{"params": halves, "lr": lr[half]} for half, halves in stacks.halves.items()]
        # One kernel, or one loop, for a group; the loss scaler of float16 wants to leave out a step by itself.
        fused = config.mixed_precision != "fp16" and groups[0]["params"][0].device.type in ("cpu", "cuda")
        return torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=fused)
    options = {} if config.damping is None else {"damping": config.damping}
    cls = {"riemannian-adamw": RiemannianAdamW, "riemannian-sgd": RiemannianSGD}[config.optimizer]
    return cls(stacks.pairs, lr=config.lr, weight_decay=config.weight_decay, **options)


def save(
    stage: Stage,
    config: TrainConfig,
    adapter: Adapter,
    unet: UNet2DConditionModel,
    path: Path,
    metadata: dict[str, str],
) -> None:
    """Write the result: the target's half as a concept file, both halves fused as an ordinary LoRA, or all."""
    own = {
        kind: Concept(
            kind,
            adapter.half(kind),
            stage.spec,
            stage.layers,
            unet_hash(unet),
            {
                **metadata,
                "prompt": _target_prompt(config, {}, kind),
                "trigger": getattr(config, f"{kind}_trigger"),
            },
        )
        for kind in stage.plan.makes
    }
    for kind, concept in own.items():
        save_concept(path.with_name(f"{kind}.safetensors"), concept)
    if stage.plan.result != FUSED:
        return
    words = {
        f"b4m.{kind}_{key}": concept.metadata[key]
        for kind, concept in (stage.concepts or own).items()
        for key in ("prompt", "trigger")
        if key in concept.metadata
    }
    basis = {**spec_metadata(stage.spec), "b4m.layers": stage.layers, "b4m.unet_hash": unet_hash(unet)}
    save_lora(path, adapter.lora(), {**{f"b4m.{k}": v for k, v in metadata.items()}, **basis, **words})
