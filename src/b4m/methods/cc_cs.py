"""CC+CS (Sec. 5.3, Fig. 7): a LoRA learns the content, and then the style on top of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones.cache import Cache, encode
from ..backbones.protocol import Backbone
from ..config.fields import InputPath, setting
from ..config.training import LORA_FILE, ShowsBoth, TrainConfig
from ..core.errors import UserError
from ..core.storage import fingerprint
from ..core.transfer import sent
from ..data.inputs import Group, Inputs, read_inputs
from ..files.opening import Opened
from ..maths.adapter import Adapter
from ..maths.objective import add_noise, draw_noise, regression_target, sample_losses
from ..maths.plp import FACTORS, BasisSpec
from .denoising import DenoisingTask
from .factors import FactorLearner
from .low_rank import (
    LoraContentConfig,
    WritesLoras,
    check_fit,
    count,
    open_lora,
    opened_base,
    save_ordinary,
    words_of,
)
from .protocol import Pair

LEVELS = 8  # noise levels at which the content's loss is looked at


@dataclass(frozen=True, kw_only=True)
class StyleOnTopConfig(ShowsBoth, TrainConfig):
    """Settings of the second half: the style's images alone are learned, in the content's LoRA."""

    stage, result = "cc+cs", LORA_FILE
    needs = ("style_dir", "content_file")
    own_presets = {"embedded": dict(lr=6e-4, steps=100)}

    content_file: InputPath | None = setting("a LoRA file of the content, which is trained on", None)
    watch_every: int = setting(
        "log every so many steps how much of the content is forgotten: the loss on --content-dir (0: never)",
        25,
        low=0,
        affects_result=False,
    )


class StyleOnTop(DenoisingTask):
    """The style's images. The content's are only looked at, to measure."""

    def __init__(self, config: StyleOnTopConfig) -> None:
        assert config.content_file is not None  # it is needed
        self.opened = open_lora(config.content_file, "content")
        super().__init__(config, {"style": config.style_prompt}, config.both_prompt)
        watched = config.content_dir if config.watch_every else ()
        groups = [Group("content", watched, config.content_prompt)] if watched else []
        self.watched = read_inputs(groups, config.resolution, config.fit, config.alpha)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "content_file": fingerprint(self.opened.tensors, {})}

    def start(self, backbone: Backbone) -> "StyleOnTopLearner":
        adapter = continued(backbone, self.opened)
        return StyleOnTopLearner(backbone, self.inputs, self.config, adapter, self.watched)


def continued(backbone: Backbone, opened: Opened) -> Adapter:
    """An adapter that goes on from a LoRA, all of which learns. Raises UserError for one that misfits."""
    check_fit(opened.where, opened.layers, backbone.denoiser, backbone.name)
    choice = "all" if any(name.endswith("attn2.to_k") for name in opened.layers) else "square"
    rank = len(next(iter(opened.layers.values()))[1])
    adapter = Adapter.install(backbone.denoiser, BasisSpec(0, rank, ratio=0.0, kind="random"), choice)
    try:
        for place, kind in enumerate(FACTORS):  # U is B, D is D where nothing is frozen
            adapter.load_factor(kind, {name: pair[place] for name, pair in opened.layers.items()})
    except UserError as error:
        adapter.remove(backbone.denoiser)
        raise UserError(f"{opened.where}: {error}") from error
    return adapter


class StyleOnTopLearner(FactorLearner):
    """Both projections learn the style; the content's loss is measured on noise that stays the same."""

    def __init__(
        self, backbone: Backbone, inputs: Inputs, config: StyleOnTopConfig, adapter: Adapter, watched: Inputs
    ) -> None:
        super().__init__(backbone, inputs, config, adapter, False, dict.fromkeys(FACTORS, config.lr))
        self.watched = watched
        self.seen: Cache | None = None  # of the watched images

    def encode(self, device: torch.device) -> Cache:
        if self.watched.images:
            self.seen = encode(self.backbone, self.watched.images, self.watched.prompts, device)
        return super().encode(device)

    @torch.no_grad()
    def measured(self, step: int) -> dict[str, Tensor]:
        """The content's loss, the mean over images and LEVELS noise levels: it grows as the content is forgotten."""
        if self.seen is None or step % self.config.watch_every:
            return {}
        alphas, losses = self._alphas_cumprod, []
        for number, latents in enumerate(self.seen.latents):
            image = torch.full((1,), number, device=latents.device)
            mask = None if self.seen.masks is None else self.seen.masks[number][None]
            conditions = self.seen.conditions(image)
            for level in range(LEVELS):
                noise, _ = draw_noise(self.config.seed, level, [number], latents.shape, len(alphas))
                noise = sent(noise, latents.device)
                timestep = torch.full_like(image, (2 * level + 1) * len(alphas) // (2 * LEVELS))
                noisy = add_noise(latents[None], noise, timestep, alphas)
                said = self.backbone.predict(noisy, timestep, conditions, {"content_samples": None})
                kind = self.backbone.prediction_type
                target = regression_target(latents[None], noise, timestep, alphas, kind)
                losses.append(sample_losses(said, target, mask))
        return {"content_loss": torch.stack(losses).mean()}

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        metadata = {**facts, **words_of(self.config, *FACTORS)}
        base, learned = opened_base(self.backbone), count(self.named)
        save_ordinary(folder / LORA_FILE, self.adapter.lora(), base, metadata, "cc+cs", learned)


class StyleAfterContent(WritesLoras):
    """The method."""

    name, doc = "cc+cs", "a LoRA of the content, trained on with the style's images (CC+CS)"
    jobs = (StyleOnTopConfig,)

    def task(self, config: Any) -> StyleOnTop:
        return StyleOnTop(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        return {"lora_file": pair.train(StyleOnTopConfig, content_file=pair.train(LoraContentConfig))}
