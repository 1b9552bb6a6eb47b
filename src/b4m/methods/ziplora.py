"""ZipLoRA (Shah et al. 2023, arXiv 2311.13600): a merger number for every column of two frozen LoRAs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.protocol import Backbone
from ..config.fields import setting
from ..config.training import LORA_FILE, ShowsBoth, TrainConfig
from ..core.storage import fingerprint
from ..data.inputs import Inputs
from ..files.lora import Layers
from ..files.opening import Opened
from ..maths.objective import add_noise, sample_losses
from ..maths.plp import FACTORS
from .added import Additions
from .denoising import DenoisingLearner, DenoisingTask, one_dial
from .low_rank import (
    LoraContentConfig,
    LoraStyleConfig,
    TakesBoth,
    WritesLoras,
    check_both,
    count,
    open_both,
    opened_base,
    save_ordinary,
    side_by_side,
    words_in,
)
from .protocol import Batch, Pair

PUBLISHED = dict(steps=100, lr=5e-5, lr_schedule="constant", target_rows=1, gradient_accumulation=1)


@dataclass(frozen=True, kw_only=True)
class ZipLoraConfig(ShowsBoth, TakesBoth, TrainConfig):
    """Settings of the training of the mergers. At the published rate they hardly move: try 1e-2 beside it."""

    stage, result = "ziplora", LORA_FILE
    needs = ("content_dir", "style_dir", "content_file", "style_file")
    own_presets = {"sdxl": PUBLISHED, "embedded": PUBLISHED}

    axis: str = setting(
        "what a merger scales: an input column of dW, or an output row", "in", choices=("in", "out")
    )
    overlap_weight: float = setting(
        "weight of the term that keeps both from using one column", 0.01, low=0, high=1e6
    )


class ZipTask(DenoisingTask):
    """On both concepts' images."""

    def __init__(self, config: ZipLoraConfig) -> None:
        self.loras = open_both(config)
        prompts = {kind: getattr(config, f"{kind}_prompt") for kind in FACTORS}
        super().__init__(config, prompts, config.both_prompt)

    def facts(self) -> dict[str, Any]:
        files = {f"{kind}_file": fingerprint(opened.tensors, {}) for kind, opened in self.loras.items()}
        return {**super().facts(), **files}

    def start(self, backbone: Backbone) -> "ZipLearner":
        check_both(self.loras, backbone.denoiser, backbone.name)
        return ZipLearner(backbone, self.inputs, self.config, self.loras)


class Zipped(nn.Module):
    """Two LoRAs of one layer and their mergers, m_content and m_style (n,) or (m,); m = 1 is their sum.

    axis "in": dW = U_c D_c diag(m_c) + U_s D_s diag(m_s); "out": diag(m_c) U_c D_c + diag(m_s) U_s D_s.
    """

    def __init__(self, pairs: Mapping[str, tuple[Tensor, Tensor]], axis: str) -> None:
        super().__init__()
        self.axis = axis
        self.mergers = nn.ParameterDict()
        self.kinds = tuple(pairs)
        for kind, (up, down) in pairs.items():
            self.register_buffer(f"up_{kind}", up, persistent=False)
            self.register_buffer(f"down_{kind}", down, persistent=False)
            self.mergers[kind] = nn.Parameter(torch.ones(down.shape[1] if axis == "in" else up.shape[0]))
        self.alone: int | None = None  # the first so many samples see the content alone, the others the style
        self.strength = 1.0

    def pair(self, kind: str, merged: bool = True) -> tuple[Tensor, Tensor]:
        """(up (m, r), down (r, n)) of one concept, with its merger or without."""
        up, down = getattr(self, f"up_{kind}"), getattr(self, f"down_{kind}")
        if not merged:
            return up, down
        merger = self.mergers[kind]
        return (up, down * merger) if self.axis == "in" else (merger[:, None] * up, down)

    def forward(self, x: Tensor) -> Tensor:
        """dW x: (samples, tokens, n) -> (samples, tokens, m)."""
        if self.alone is None:
            terms = [_product(x, *self.pair(kind)) for kind in self.kinds]
            return self.strength * sum(terms[1:], terms[0])
        parts = {"content": x[: self.alone], "style": x[self.alone :]}
        return torch.cat([self._alone(kind, part) for kind, part in parts.items()])

    def _alone(self, kind: str, x: Tensor) -> Tensor:
        if kind in self.kinds:
            return _product(x, *self.pair(kind, merged=False))
        return x.new_zeros(*x.shape[:-1], getattr(self, f"up_{self.kinds[0]}").shape[0])


def _product(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    return (x @ down.to(x.dtype).T) @ up.to(x.dtype).T


class AttachedZip:
    """All merged layers on a denoiser; one dial, since it is one LoRA in the end."""

    def __init__(self, backbone: Backbone, loras: Mapping[str, Opened], axis: str) -> None:
        names = dict.fromkeys(name for opened in loras.values() for name in opened.layers)
        self.modules = {
            name: Zipped(
                {kind: opened.layers[name] for kind, opened in loras.items() if name in opened.layers}, axis
            )
            for name in names
        }
        self.additions = Additions(backbone.denoiser, self.modules)

    def arguments(self, content: float, style: float) -> None:
        for module in self.modules.values():
            module.strength = one_dial(content, style)

    def teach(self, content_samples: int | None) -> None:
        """Show each concept's samples its own LoRA alone; None: all of them the merged ones."""
        for module in self.modules.values():
            module.alone = content_samples

    def overlap(self) -> Tensor:
        """Sum over layers of mean_j |m_c,j m_s,j|: what the two use in common."""
        products = [
            (module.mergers["content"] * module.mergers["style"]).abs().mean()
            for module in self.modules.values()
            if len(module.kinds) == 2
        ]
        merger = next(iter(next(iter(self.modules.values())).mergers.values()))
        return torch.stack(products).sum() if products else merger.new_zeros(())

    def layers(self) -> Layers:
        """The merged LoRAs as one, float32 on the CPU."""
        with torch.no_grad():
            return side_by_side(
                [
                    (
                        1.0,
                        {
                            name: _on_cpu(module.pair(kind))
                            for name, module in self.modules.items()
                            if kind in module.kinds
                        },
                    )
                    for kind in FACTORS
                ]
            )

    def remove(self) -> None:
        self.additions.remove()


def _on_cpu(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return pair[0].cpu(), pair[1].cpu()


class ZipLearner(DenoisingLearner):
    """Mergers learn to do for each concept what its own LoRA does alone (the paper's L_merge)."""

    def __init__(
        self, backbone: Backbone, inputs: Inputs, config: ZipLoraConfig, loras: Mapping[str, Opened]
    ) -> None:
        super().__init__(backbone, inputs, config)
        self.loras, self.zip = loras, AttachedZip(backbone, loras, config.axis)
        backbone.attached = self.zip
        self.named = {
            f"{kind}/{name}": module.mergers[kind]
            for kind in FACTORS
            for name, module in self.zip.modules.items()
            if kind in module.kinds
        }

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        noisy = add_noise(batch.latents, batch.noise, batch.timesteps, self._alphas_cumprod)
        samples = len(batch.images)
        try:
            self.zip.teach(sum(place < self.inputs.content_samples for place in batch.places))
            with torch.no_grad():
                alone = self.backbone.predict(noisy, batch.timesteps, batch.conditions)
        finally:
            self.zip.teach(None)
        together = self.backbone.predict(noisy, batch.timesteps, batch.conditions)
        losses = sample_losses(together, alone, batch.mask)
        share = samples / self.inputs.samples  # of the micro-batch, which may come in parts
        overlap = self.config.overlap_weight * share * self.zip.overlap()
        return (batch.weights * losses).sum() + overlap, losses.detach()

    @torch.no_grad()
    def measured(self, step: int) -> dict[str, Tensor]:
        """How far the mergers have moved from 1, and where to: at 5e-5 they hardly do, at 1e-2 both may go to 0."""
        found: dict[str, list[Tensor]] = {kind: [] for kind in FACTORS}
        for name, merger in self.named.items():
            found[name.split("/")[0]].append(merger.detach())
        flat = {kind: torch.cat(mergers) for kind, mergers in found.items()}
        moved = torch.cat([*flat.values()]).sub(1).abs()
        return {
            **{f"merger_{kind}": values.mean() for kind, values in flat.items()},
            "merger_moved": moved.mean(),
            "merger_moved_most": moved.max(),
            "overlap": self.zip.overlap(),
        }

    def learns_from(self, sample: int) -> set[str]:
        return set(FACTORS)

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        metadata = {**facts, **words_in(self.loras), "axis": self.config.axis}
        base, learned = opened_base(self.backbone), count(self.named)
        save_ordinary(folder / LORA_FILE, self.zip.layers(), base, metadata, "ziplora", learned)


class ZipLora(WritesLoras):
    """The method."""

    name, doc = "ziplora", "two LoRAs whose columns are weighed against each other (ZipLoRA)"
    jobs = (ZipLoraConfig,)

    def task(self, config: Any) -> ZipTask:
        return ZipTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(LoraContentConfig), pair.train(LoraStyleConfig)
        return {"lora_file": pair.train(ZipLoraConfig, content_file=content, style_file=style)}
