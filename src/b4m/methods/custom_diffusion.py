"""Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488): cross-attention's keys and values, and a word, learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..backbones.cache import Cache
from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Attached, Backbone, Conditions
from ..config.fields import InputPath, setting
from ..config.training import JobConfig, ShowsBoth, ShowsContent, ShowsStyle, TrainConfig
from ..core.errors import UserError
from ..core.storage import fingerprint
from ..data.images import whole
from ..data.inputs import Inputs
from ..files.opening import BASE, Opened, save_method_file
from ..maths.objective import objective
from .class_images import METHOD as NAME
from .class_images import (
    ClassImages,
    ContentClassesConfig,
    DrawsClasses,
    StyleClassesConfig,
    class_prompt,
    kinds_of,
)
from .denoising import DenoisingTask
from .keys_and_values import RESULT, attach_file, attached_to, keys_and_values, open_own
from .low_rank import count, words_of
from .merging_keys import CustomMergeConfig, Merge
from .protocol import Batch, Pair
from .tokens import TokenLearner, check_captions


@dataclass(frozen=True, kw_only=True)
class Custom(TrainConfig):
    """Settings of a training. The published rate is 1e-5 for each image of a micro-batch."""

    result: ClassVar[str] = RESULT
    own_presets = {
        "sdxl": dict(steps=500, lr=2e-5, target_rows=2, gradient_accumulation=1),
        "embedded": dict(lr=1.2e-3, steps=400),
    }

    prior_weight: float = setting("weight of the loss on the class images", 1.0, low=0, high=1e6)


CONTENT_CLASSES = setting("class images of the content, from custom-diffusion:content-classes", None)
STYLE_CLASSES = setting("class images of the style, from custom-diffusion:style-classes", None)


@dataclass(frozen=True, kw_only=True)
class CustomJointConfig(ShowsBoth, Custom):
    """A content and a style in one training."""

    stage, needs = "custom-diffusion-joint", ("content_dir", "style_dir")
    own_presets = {"embedded": dict(steps=200)}

    content_classes_file: InputPath | None = CONTENT_CLASSES
    style_classes_file: InputPath | None = STYLE_CLASSES


@dataclass(frozen=True, kw_only=True)
class CustomContentConfig(ShowsContent, Custom):
    """A content alone."""

    stage, needs = "custom-diffusion-content", ("content_dir",)

    content_classes_file: InputPath | None = CONTENT_CLASSES


@dataclass(frozen=True, kw_only=True)
class CustomStyleConfig(ShowsStyle, Custom):
    """A style alone."""

    stage, needs = "custom-diffusion-style", ("style_dir",)

    style_classes_file: InputPath | None = STYLE_CLASSES


class CustomTask(DenoisingTask):
    """Images whose captions hold their words, and class images beside them."""

    def __init__(self, config: Any) -> None:
        self.kinds = kinds_of(config)
        prompts = {kind: getattr(config, f"{kind}_prompt") for kind in self.kinds}
        both = len(self.kinds) == 2
        super().__init__(config, prompts, config.both_prompt if both else prompts[self.kinds[0]])
        for source in self.inputs.sources:
            captions = [self.inputs.prompts[image] for image in source.images]
            check_captions(captions, getattr(config, f"{source.kind}_trigger"))
        paths = {kind: getattr(config, f"{kind}_classes_file") for kind in self.kinds}
        self.classes = {
            kind: open_own(path, "class images", "latents") for kind, path in paths.items() if path
        }

    def facts(self) -> dict[str, Any]:
        files = {f"{kind}_classes_file": fingerprint(f.tensors, {}) for kind, f in self.classes.items()}
        return {**super().facts(), **files}

    def start(self, backbone: Backbone) -> "CustomLearner":
        for opened in self.classes.values():
            check_base(opened.metadata.get(BASE, ""), backbone.denoiser, opened.where, backbone.name)
        return CustomLearner(backbone, self.inputs, self.config, self.classes)


class CustomLearner(TokenLearner):
    """Changes of keys and values ("kv/<layer>"), and a vector of each concept's word."""

    def __init__(
        self, backbone: Backbone, inputs: Inputs, config: Any, classes: Mapping[str, Opened]
    ) -> None:
        self.kinds, self.classes = kinds_of(config), classes
        words = {
            getattr(config, f"{kind}_trigger"): getattr(config, f"{kind}_class") or kind
            for kind in self.kinds
        }
        super().__init__(backbone, inputs, config, "words", words)
        changes = {name: torch.zeros(m.weight.shape) for name, m in keys_and_values(backbone).items()}
        attached = attached_to(backbone, changes, self.words, self.kinds)
        backbone.attached = attached
        self.named = {
            **self.named,
            **{f"kv/{name}": module.change for name, module in attached.changes.items()},
        }
        self.latents: dict[str, Tensor] = {}  # of class images, by kind
        self.told: dict[str, Conditions] = {}  # of their caption

    def encode(self, device: torch.device) -> Cache:
        cache = super().encode(device)
        size = self.config.resolution
        seen = self.backbone.image_conditions(whole(size))
        for kind, opened in self.classes.items():
            latents = opened.tensors["latents"]
            if odd := [z for z in cache.latents if z.shape != latents.shape[1:]]:
                raise UserError(
                    f"{opened.where}: latents of {tuple(latents.shape[1:])}, and those of the training are "
                    f"{tuple(odd[0].shape)}; draw the class images at --resolution {size}, and train without --buckets"
                )
            self.latents[kind] = latents.to(device)
            with torch.no_grad():
                told = self.backbone.encode_prompts([class_prompt(self.config, kind)])
            dtype = self.backbone.denoiser.dtype
            of_image = {name: value[None] for name, value in seen.items()}
            self.told[kind] = {name: value.to(device, dtype) for name, value in {**told, **of_image}.items()}
        return cache

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The images' loss, and the class images' beside each, at the same noise and timestep."""
        loss, losses = super().loss(batch)
        if not self.latents or not self.config.prior_weight:
            return loss, losses
        kinds = [self._kind(batch.places[place]) for place in range(len(batch.images))]
        rows = [place for place, kind in enumerate(kinds) if kind in self.latents]
        latents = torch.stack([self._class_image(batch, place, kinds[place]) for place in rows])
        told = [self.told[kinds[place]] for place in rows]
        conditions = {name: torch.cat([each[name] for each in told]) for name in told[0]}
        chosen = torch.tensor(rows, device=latents.device)
        prior, _ = objective(
            lambda noisy, timesteps: self.backbone.predict(noisy, timesteps, conditions),
            latents,
            batch.noise[chosen],
            batch.timesteps[chosen],
            batch.weights[chosen],
            self._alphas_cumprod,
            self.backbone.prediction_type,
            self.config.snr_gamma,
        )
        return loss + self.config.prior_weight * prior, losses

    def _kind(self, sample: int) -> str:
        if len(self.kinds) == 1:
            return self.kinds[0]
        return "content" if sample < self.inputs.content_samples else "style"

    def _class_image(self, batch: Batch, place: int, kind: str) -> Tensor:
        """One of them, as good as at random: by the sample's image and timestep, which resumed runs draw again."""
        images = self.latents[kind]
        return images[(7919 * int(batch.images[place]) + int(batch.timesteps[place])) % len(images)]

    def learns_from(self, sample: int) -> set[str]:
        return {"words", "kv"}

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        told = {**words_of(self.config, *self.kinds), "trained_parameters": str(count(self.named))}
        role = "lora" if len(self.kinds) == 2 else self.kinds[0]
        tensors = {name: parameter.detach() for name, parameter in self.named.items()}
        save_method_file(folder / RESULT, NAME, tensors, self.backbone.denoiser, {**facts, **told}, role=role)


class CustomDiffusion:
    """Both concepts in one training."""

    name, doc = NAME, "keys, values and words of both concepts, trained together (Custom Diffusion)"
    jobs: ClassVar[tuple[type[JobConfig], ...]] = (
        CustomJointConfig,
        CustomContentConfig,
        CustomStyleConfig,
        ContentClassesConfig,
        StyleClassesConfig,
        CustomMergeConfig,
    )
    triggers = True
    by_sample = False
    two_dials = False

    def task(self, config: Any) -> Any:
        if isinstance(config, CustomMergeConfig):
            return Merge(config)
        return ClassImages(config) if isinstance(config, DrawsClasses) else CustomTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        classes = {
            "content_classes_file": pair.train(ContentClassesConfig),
            "style_classes_file": pair.train(StyleClassesConfig),
        }
        return {"lora_file": pair.train(CustomJointConfig, **classes)}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        if len(files) == 2:
            where = " and ".join(opened.where for opened in files.values())
            raise UserError(f"{where}: cannot be added up; merge them with b4m train {NAME}:merge")
        (opened,) = files.values()
        return attach_file(backbone, opened)


class CustomDiffusionMerge(CustomDiffusion):
    """Concepts that were trained alone, merged in closed form."""

    name, doc = (
        "custom-diffusion-merge",
        "keys, values and words trained apart, merged in closed form (Custom Diffusion)",
    )
    jobs = ()

    def files(self, pair: Pair) -> dict[str, Path]:
        classes = pair.train(ContentClassesConfig), pair.train(StyleClassesConfig)
        content = pair.train(CustomContentConfig, content_classes_file=classes[0])
        style = pair.train(CustomStyleConfig, style_classes_file=classes[1])
        return {"lora_file": pair.train(CustomMergeConfig, content_file=content, style_file=style)}
