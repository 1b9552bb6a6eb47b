"""Custom Diffusion (Kumari et al. 2023, arXiv 2212.04488): cross-attention's keys and values, and a word, learn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..backbones.cache import Cache
from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Attached, Backbone, Conditions
from ..backbones.registry import open_backbone
from ..backbones.words import NewWords
from ..config.fields import InputPath, setting
from ..config.training import JobConfig, ShowsBoth, ShowsContent, ShowsStyle, TrainConfig
from ..core.errors import UserError
from ..core.storage import fingerprint
from ..data.images import whole
from ..data.inputs import Inputs
from ..files.opening import BASE, Opened, open_any, save_method_file
from ..maths.closed_form import merger
from ..maths.objective import objective
from ..maths.plp import FACTORS
from .added import Additions
from .class_images import METHOD as NAME
from .class_images import (
    ClassImages,
    ContentClassesConfig,
    DrawsClasses,
    StyleClassesConfig,
    class_prompt,
    kinds_of,
)
from .denoising import DenoisingTask, one_dial
from .low_rank import count, words_of
from .protocol import Batch, Pair
from .tokens import TokenLearner, check_captions, is_on, read_vectors, trigger_in

RESULT = "custom_diffusion.safetensors"
ENDS = ("attn2.to_k", "attn2.to_v")
CAPTIONS = 200  # of other things, whose keys and values the merge keeps as they were


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
    own_presets = {"embedded": dict(lr=6e-4, steps=200)}  # not swept: it takes a minute and more a pair

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


@dataclass(frozen=True, kw_only=True)
class CustomMergeConfig(JobConfig):
    """Settings of the closed-form merge of a content and a style that were trained alone."""

    stage, result, section = "custom-diffusion-merge", RESULT, "merge"
    needs = ("content_file", "style_file")

    content_file: InputPath | None = setting("a content file of custom-diffusion", None)
    style_file: InputPath | None = setting("a style file of custom-diffusion", None)


def open_own(path: str, what: str, tensor: str) -> Opened:
    """A file of this method that holds `tensor`. Raises UserError."""
    opened = open_any(path)
    if opened.method != NAME or not any(name.startswith(tensor) for name in opened.tensors):
        raise UserError(f"{opened.where}: holds no {what} of {NAME}; make them with b4m train {NAME}:...")
    return opened


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


class Change(nn.Module):
    """What is added to the weight of a layer, (m, n), from nothing; weight decay then pulls towards the base model."""

    def __init__(self, change: Tensor) -> None:
        super().__init__()
        self.change, self.strength = nn.Parameter(change), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.strength * (x @ self.change.to(x.dtype).T)


class AttachedCustom:
    """Changed keys and values and new words on a base model, there or not."""

    def __init__(self, backbone: Backbone, changes: Mapping[str, Tensor], words: NewWords) -> None:
        self.changes, self.words = {name: Change(change) for name, change in changes.items()}, words
        self.additions = Additions(backbone.denoiser, self.changes)

    def arguments(self, content: float, style: float) -> None:
        on = is_on("content and style", one_dial(content, style))
        self.words.switch(on)
        for module in self.changes.values():
            module.strength = float(on)

    def prompt_at(self, prompt: str, timestep: float) -> str:
        return prompt

    def remove(self) -> None:
        self.words.remove()
        self.additions.remove()


class OneConcept(AttachedCustom):
    """Of one kind, whose dial alone counts."""

    kind = "content"

    def arguments(self, content: float, style: float) -> None:
        own = {"content": content, "style": style}[self.kind]
        super().arguments(own, own)


def attached_to(
    backbone: Backbone, changes: Mapping[str, Tensor], words: NewWords, kinds: Sequence[str]
) -> AttachedCustom:
    """With the dials that its kinds have."""
    if len(kinds) == 2:
        return AttachedCustom(backbone, changes, words)
    attached = OneConcept(backbone, changes, words)
    attached.kind = kinds[0]
    return attached


def keys_and_values(backbone: Backbone) -> dict[str, nn.Linear]:
    """Cross-attention's, by name. Raises UserError for a base model without any."""
    found = {name: m for name, m in backbone.denoiser.named_modules() if name.endswith(ENDS)}
    if not found:
        raise UserError(f"base model {backbone.name}: has no {' or '.join(ENDS)}, which {NAME} trains")
    return found  # pyrefly: ignore[bad-return]


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


class Merge:
    """The assembly of two files into one, in closed form."""

    def __init__(self, config: CustomMergeConfig) -> None:
        self.config = config
        self.files = {
            kind: open_own(getattr(config, f"{kind}_file"), f"changes of a {kind}", "kv/") for kind in FACTORS
        }
        for kind, opened in self.files.items():
            if opened.role != kind:
                raise UserError(
                    f"{opened.where}: of a {opened.role}, and was given as the {kind}; exchange the files"
                )

    @torch.no_grad()
    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        backbone = open_backbone(self.config.base_model)
        for opened in self.files.values():
            check_base(opened.metadata.get(BASE, ""), backbone.denoiser, opened.where, backbone.name)
        layers = list(keys_and_values(backbone))
        told = {name: text for opened in self.files.values() for name, text in _words(opened).items()}
        vectors = {kind: read_vectors(opened, backbone, "words/") for kind, opened in self.files.items()}
        triggers = [trigger_in(opened, kind) for kind, opened in self.files.items()]
        tables = {
            table: torch.cat([each[table] for each in vectors.values()])
            for table in next(iter(vectors.values()))
        }
        C_reg = torch.cat([features(backbone, caption) for caption in captions(backbone)])
        words = NewWords(backbone, triggers, tables)
        prompts = {kind: told[f"{kind}_prompt"] for kind in FACTORS}
        C, owners = distinct({kind: features(backbone, prompt) for kind, prompt in prompts.items()})
        words.remove()
        spread = merger(C, C_reg)
        changes = {}
        for name in layers:
            of_kind = {
                kind: C @ opened.tensors[f"kv/{name}"].double().T for kind, opened in self.files.items()
            }
            V = torch.stack([of_kind[kind][row] for row, kind in enumerate(owners)])
            changes[f"kv/{name}"] = (V.T @ spread).float()
        tensors = {**changes, **{f"words/{table}": rows for table, rows in tables.items()}}
        metadata = {**facts, **told, "trained_parameters": "0"}
        save_method_file(folder / RESULT, NAME, tensors, backbone.denoiser, metadata)


def _words(opened: Opened) -> dict[str, str]:
    kinds = ("prompt", "trigger")
    names = {f"b4m.{opened.role}_{name}" for name in kinds} & opened.metadata.keys()
    return {name.removeprefix("b4m."): opened.metadata[name] for name in names}


def features(backbone: Backbone, prompt: str) -> Tensor:
    """What cross-attention reads of a prompt's tokens, from its first word to its end: (k, n) float64."""
    tokenizer = getattr(backbone.pipe, next(iter(backbone.encoders)))
    length = len(tokenizer(prompt, truncation=True).input_ids)
    return backbone.encode_prompts([prompt])["hidden"][0, 1:length].double()


def distinct(rows: Mapping[str, Tensor]) -> tuple[Tensor, list[str]]:
    """All rows but those that are there already, and whose each is: common beginnings of prompts read alike."""
    kept: list[Tensor] = []
    owners = []
    for kind, features_of in rows.items():
        for row in features_of:
            if all((row - other).norm() > 1e-6 * row.norm() for other in kept):
                kept.append(row)
                owners.append(kind)
    return torch.stack(kept), owners


def captions(backbone: Backbone) -> list[str]:
    """CAPTIONS captions of other things: of words that the base model's own tokenizer knows, evenly from A to Z."""
    vocabulary = getattr(backbone.pipe, next(iter(backbone.encoders))).get_vocab()
    words = sorted(token.removesuffix("</w>") for token in vocabulary if token.endswith("</w>"))
    words = [word for word in words if word.isascii() and word.isalpha()]
    step = max(1, len(words) // CAPTIONS)
    return [f"a photo of {word}" for word in words[::step][:CAPTIONS]]


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
        layers = keys_and_values(backbone)
        changes = {name: opened.tensors.get(f"kv/{name}") for name in layers}
        wrong = [name for name, c in changes.items() if c is None or c.shape != layers[name].weight.shape]
        if wrong:
            raise UserError(
                f"{opened.where}: nothing that fits {wrong[0]}; give a file of {NAME} that was trained or merged"
            )
        kinds = tuple(FACTORS) if opened.role == "lora" else (opened.role,)
        tables = read_vectors(opened, backbone, "words/", rows=len(kinds))
        words = NewWords(backbone, [trigger_in(opened, kind) for kind in kinds], tables)
        return attached_to(backbone, {name: c for name, c in changes.items() if c is not None}, words, kinds)


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
