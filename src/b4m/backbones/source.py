"""Where a base model or an autoencoder comes from: a folder, a name on Hugging Face, or one file (`single_file`)."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ModelMixin
from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
from transformers import CLIPTokenizer

from ..core.errors import UserError
from ..core.storage import reason
from ..core.where import locate
from .single_file import FOLDER, Checkpoint, loading

INDEX = "model_index.json"
HUB = "a Hugging Face name (owner/name, or owner/name@revision)"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# The weights of a part: plain or of a variant, whole or in shards, the variant before the shard or, of old, after it.
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?(?:\.(?P<old>\w+))?\.safetensors"
)
VARIANTS = ("fp16", "bf16")  # taken before others where there are no plain weights


class Source(Protocol):
    """A base model or an autoencoder that is not loaded yet. Every call raises UserError."""

    def read(self, file: str, needed: bool = True) -> dict[str, Any]:
        """One of its JSON files; {} where one that is not `needed` is not there."""

    def check(self) -> None:
        """That the UNet is what its settings say, where the library would not see that itself."""

    def pipeline(
        self, cls: type[DiffusionPipeline], weights: Sequence[str], dtype: torch.dtype, **parts: Any
    ) -> DiffusionPipeline:
        """The whole, its autoencoder in float32. weights: the parts to be read, those apart that are given."""

    def part(self, cls: type[ModelMixin], folder: str, dtype: torch.dtype) -> ModelMixin:
        """One part alone."""

    def at_hand(self) -> "Source":
        """The same, of which nothing is downloaded. Raises any error where it is not on this machine."""

    def tokenizers(self, folders: Sequence[str]) -> list[CLIPTokenizer]:
        """What cuts prompts into words."""

    def autoencoder(self, like: str) -> AutoencoderKL:
        """A source that is an autoencoder and nothing else, float32. like: whose settings one file takes."""


def find(what: str, name: str) -> Source:
    """What `name` stands for; what is on this machine comes before Hugging Face. what: how errors call it."""
    path = Path(locate(name)).expanduser()
    if path.is_dir():
        return Saved(what, name, str(path))
    if path.is_file():
        _check_format(what, name, path)
        return Checkpoint(what, name, path)
    if name.startswith(("http://", "https://")):
        raise UserError(f"{what} {name}: a web address; download it and give the file, or give {HUB}")
    if _is_path(name):
        raise UserError(
            f"{what} {name}: no such folder or file{_nearby(path)}; give a folder, a .safetensors file, or {HUB}"
        )
    repository, _, revision = name.partition("@")
    return Saved(what, name, repository, revision or None, here=False)


def _check_format(what: str, name: str, path: Path) -> None:
    if path.suffix.lower() in PICKLED:
        raise UserError(
            f"{what} {name}: one file of pickled weights, which can run code when they are read; where you trust it, "
            f"{FOLDER}"
        )
    if path.suffix.lower() != ".safetensors":
        raise UserError(f"{what} {name}: not a .safetensors file; give one, a folder, or {HUB}")


def _is_path(name: str) -> bool:
    """Whether a name that is not here can be meant as nothing but a folder or a file."""
    owner, _, rest = name.partition("/")
    file = name.lower().endswith((".safetensors", ".gguf", *PICKLED))
    # A stranger's repository may be called models/sdxl, too.
    return file or not HUB_NAME.fullmatch(name) or os.path.isdir(owner) and "@" not in rest


def _nearby(path: Path) -> str:
    """What may have been meant."""
    try:
        there = os.listdir(path.parent)
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, there, n=1)
    return f" (there is {path.parent / close[0]})" if close else ""


@dataclass(frozen=True)
class Saved:
    """A model that Diffusers saved: a folder, or a name on Hugging Face."""

    what: str
    name: str
    place: str  # the folder, or owner/name
    revision: str | None = None
    here: bool = True

    def read(self, file: str, needed: bool = True) -> dict[str, Any]:
        path = Path(self.place, file) if self.here else self._download(file, needed)
        if path is None or not needed and not path.exists():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found["_class_name"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._wrong(f"{file} is missing or broken; {self._advice(file)}") from error
        return found

    def check(self) -> None:
        """The library does, when it reads the weights."""

    def pipeline(
        self, cls: type[DiffusionPipeline], weights: Sequence[str], dtype: torch.dtype, **parts: Any
    ) -> DiffusionPipeline:
        precision = {"default": dtype, "vae": torch.float32}
        return self._load(cls, weights, torch_dtype=precision, **parts)

    def part(self, cls: type[ModelMixin], folder: str, dtype: torch.dtype) -> ModelMixin:
        return self._load(cls, [folder], subfolder=folder, torch_dtype=dtype)

    def at_hand(self) -> "Saved":
        if self.here:
            return self
        folder = snapshot_download(self.place, revision=self.revision, local_files_only=True)
        return Saved(self.what, self.name, folder)

    def tokenizers(self, folders: Sequence[str]) -> list[CLIPTokenizer]:
        return [
            CLIPTokenizer.from_pretrained(self.place, subfolder=folder, revision=self.revision)
            for folder in folders
        ]

    def autoencoder(self, like: str) -> AutoencoderKL:
        found = self.read("config.json")["_class_name"]
        if found != "AutoencoderKL":
            raise self._wrong(f"it is a {found}, and an AutoencoderKL is needed")
        return self._load(AutoencoderKL, [""], torch_dtype=torch.float32)

    def _load(self, cls: Any, weights: Sequence[str], **options: Any) -> Any:
        variant = self._variant(weights)
        with loading(self._wrong):
            return cls.from_pretrained(
                self.place, revision=self.revision, variant=variant, use_safetensors=True, **options
            )

    def _download(self, file: str, needed: bool) -> Path | None:
        try:
            return Path(hf_hub_download(self.place, file, revision=self.revision))
        except Exception as error:  # not there, no network, no such name
            if not needed:
                return None
            alone = [name for name in self._files or () if name.endswith(".safetensors") and "/" not in name]
            raise self._wrong(
                f"it has no {file}, but {alone[0]}; download that file and give its path"
                if alone
                else f"no folder of this name is here, and {file} cannot be had from Hugging Face ({reason(error)})"
            ) from error

    def _variant(self, weights: Sequence[str]) -> str | None:
        """Which files `from_pretrained` is to take: the plain ones (None), else those of a variant ("fp16")."""
        files = self._files
        if files is None:
            return None
        found: dict[str, set[str | None]] = {}
        for part in weights:
            names = [
                file.removeprefix(f"{part}/") for file in files if not part or file.startswith(f"{part}/")
            ]
            matches = [match for name in names if (match := WEIGHTS.fullmatch(name))]
            if not matches:
                raise self._without_weights(part, names)
            found[part] = {match["variant"] or match["old"] for match in matches}
        others = sorted({variant for variants in found.values() for variant in variants if variant})
        for variant in (None, *VARIANTS, *others):
            if all(variants & {variant, None} for variants in found.values()):
                return variant
        told = ", ".join(f"{part} {'/'.join(sorted(map(str, variants)))}" for part, variants in found.items())
        raise self._wrong(f"its parts are of different variants ({told}); download one variant of it whole")

    @cached_property
    def _files(self) -> list[str] | None:
        """Its files, their paths with slashes; None where they cannot be listed, and the library must see."""
        if self.here:
            root = Path(self.place)
            return [path.relative_to(root).as_posix() for path in (*root.glob("*"), *root.glob("*/*"))]
        try:
            return list_repo_files(self.place, revision=self.revision)
        except Exception:  # without a network: what has been downloaded
            try:
                return self.at_hand()._files
            except Exception:
                return None

    def _advice(self, file: str) -> str:
        """What to do about a JSON file that is not there, or not whole."""
        root = Path(self.place)
        if file != INDEX or (root / file).exists():
            return "download or copy the model again"
        if below := sorted(path.parent for level in ("*", "*/*") for path in root.glob(f"{level}/{INDEX}")):
            return f"give {below[0]}"
        if (root / "config.json").exists():
            return "it is a part of a model; give the folder above it"
        if alone := sorted(root.glob("*.safetensors")):
            return f"give the file in it, {alone[0]}"
        return "give the folder of a model that Diffusers saved"

    def _without_weights(self, part: str, names: Iterable[str]) -> UserError:
        pickled = next((name for name in names if name.endswith(PICKLED)), None)
        where = f"its {part}" if part else "it"
        if pickled:
            return self._wrong(
                f"cannot be loaded: {where} has pickled weights only ({pickled}), which can run code when they are "
                "read; download it with .safetensors weights"
            )
        return self._wrong(
            f"cannot be loaded: {where} has no .safetensors weights; download or copy it again"
        )

    def _wrong(self, text: str) -> UserError:
        return UserError(f"{self.what} {self.name}: {text}")
