"""Custom Diffusion's merge: two concepts' changes of keys and values as one, in closed form."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..backbones.latent_diffusion import check_base
from ..backbones.protocol import Backbone
from ..backbones.registry import open_backbone
from ..backbones.words import NewWords
from ..config.fields import InputPath, setting
from ..config.training import JobConfig
from ..core.errors import UserError
from ..files.opening import BASE, Opened, save_method_file
from ..maths.closed_form import merger
from ..maths.plp import FACTORS
from .class_images import METHOD as NAME
from .keys_and_values import RESULT, keys_and_values, open_own
from .tokens import read_vectors, trigger_in

CAPTIONS = 200  # of other things, whose keys and values the merge keeps as they were


@dataclass(frozen=True, kw_only=True)
class CustomMergeConfig(JobConfig):
    """Settings of the closed-form merge of a content and a style that were trained alone."""

    stage, result, section = "custom-diffusion-merge", RESULT, "merge"
    needs = ("content_file", "style_file")

    content_file: InputPath | None = setting("a content file of custom-diffusion", None)
    style_file: InputPath | None = setting("a style file of custom-diffusion", None)


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
