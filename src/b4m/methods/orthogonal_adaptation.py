"""Orthogonal Adaptation (Po et al. 2024, arXiv 2312.02432): LoRAs whose frozen inputs share one orthogonal basis."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.protocol import Backbone
from ..config.fields import setting
from ..config.training import LORA_FILE, ShowsContent, ShowsStyle
from ..core.errors import UserError
from ..core.seeds import seeded
from ..data.inputs import KINDS, Inputs
from ..maths.adapter import Adapter
from .denoising import DenoisingLearner
from .factors import AttachedFactors
from .low_rank import (
    DirectSumConfig,
    LoraTask,
    LowRank,
    WritesLoras,
    count,
    install,
    kind_of,
    opened_base,
    save_ordinary,
    words_of,
)
from .protocol import Pair


@dataclass(frozen=True, kw_only=True)
class Orthogonal(LowRank):
    """Settings of a concept: dW = U D, where only U learns and D is a share of the basis."""

    # Of this rank two concepts fit side by side into the narrowest layers.
    own_presets = {"embedded": dict(rank=32, lr=1.2e-3, steps=200)}

    columns: str = setting(
        "which columns of the basis a concept takes: drawn at random as in the paper, or never another kind's",
        "random",
        choices=("random", "disjoint"),
    )
    basis_seed: int = setting(
        "seed of the basis, which a content and a style must share", 0, low=0, high=2**63 - 1
    )


@dataclass(frozen=True, kw_only=True)
class OrthogonalContentConfig(ShowsContent, Orthogonal):
    """A content."""

    stage, result, needs = "orthogonal-adaptation-content", LORA_FILE, ("content_dir",)


@dataclass(frozen=True, kw_only=True)
class OrthogonalStyleConfig(ShowsStyle, Orthogonal):
    """A style."""

    stage, result, needs = "orthogonal-adaptation-style", LORA_FILE, ("style_dir",)


@cache
def orthogonal(n: int, seed: int) -> Tensor:
    """O (n, n) float64, orthogonal: QR of a Gaussian matrix. One for every layer of input width n."""
    return torch.linalg.qr(torch.randn(n, n, generator=seeded("orthogonal", seed, n), dtype=torch.float64)).Q


def columns(n: int, rank: int, kind: str, config: Orthogonal) -> Tensor:
    """Which columns of O the concept takes, (rank,): a function of width, kind and seeds. Raises UserError."""
    disjoint = config.columns == "disjoint"
    needed = 2 * rank if disjoint else rank
    if needed > n:
        raise UserError(
            f"--rank {rank}: a layer of this base model has {n} inputs, which is all the columns that there are, and "
            f"{needed} are needed; lower --rank"
        )
    if disjoint:
        first = KINDS.index(kind) * rank
        return torch.arange(first, first + rank)
    return torch.randperm(n, generator=seeded("columns", config.seed, kind, n))[:rank]


class OrthogonalTask(LoraTask):
    """One concept, on its share of the basis."""

    def start(self, backbone: Backbone) -> "OrthogonalLearner":
        config, kind = self.config, self.kind
        shares: dict[int, Tensor] = {}
        adapter = install(backbone, config)
        for layer in adapter.layers.values():
            n = layer.D.shape[1]
            if n not in shares:
                shares[n] = orthogonal(n, config.basis_seed)[
                    :, columns(n, config.rank, kind, config)
                ].T.float()
            layer.D.data.copy_(shares[n])
            layer.D.requires_grad_(False)
        return OrthogonalLearner(backbone, self.inputs, config, adapter)


class OrthogonalLearner(DenoisingLearner):
    """U alone learns."""

    def __init__(self, backbone: Backbone, inputs: Inputs, config: Any, adapter: Adapter) -> None:
        super().__init__(backbone, inputs, config)
        self.adapter = adapter
        backbone.attached = AttachedFactors(adapter, backbone)
        self.named = {f"up/{name}": layer.B for name, layer in adapter.layers.items()}

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        config = self.config
        told = {"columns": config.columns, "basis_seed": str(config.basis_seed)}
        metadata = {**facts, **words_of(config, kind_of(config)), **told}
        base, learned = opened_base(self.backbone), count(self.named)
        save_ordinary(
            folder / LORA_FILE, self.adapter.lora(), base, metadata, "orthogonal-adaptation", learned
        )


class OrthogonalAdaptation(WritesLoras):
    """The method: concepts that were trained apart are added."""

    name = "orthogonal-adaptation"
    doc = "LoRAs on frozen shares of one orthogonal basis, added (Orthogonal Adaptation)"
    jobs = (OrthogonalContentConfig, OrthogonalStyleConfig)

    def task(self, config: Any) -> OrthogonalTask:
        return OrthogonalTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(OrthogonalContentConfig), pair.train(OrthogonalStyleConfig)
        return {"lora_file": pair.train(DirectSumConfig, content_file=content, style_file=style)}
