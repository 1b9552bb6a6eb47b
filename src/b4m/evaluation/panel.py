"""Who looks at the images of one evaluation: extractors, classifiers and a vision-language model, loaded and named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..core.errors import UserError
from .extractors import Extractor, load_extractor
from .vlm import Vlm, load_vlm

VERSIONS = ("b4m", "torch", "transformers", "diffusers", "numpy", "pillow", "open_clip_torch")


@dataclass(frozen=True)
class Extractors:
    """Who looks at the images: one model for each alignment, and a classifier for each aspect that has labels."""

    content: Extractor  # paper: DINOv2
    style: Extractor  # paper: CLIP
    prompt: Extractor  # paper: CLIP; must read texts. Diversity is measured with it: it is blind to nothing
    judges: Mapping[str, Extractor] = field(default_factory=dict)  # by one of ASPECTS
    csd: Extractor | None = None  # a second one for styles, `csd`
    vlm: Vlm | None = None  # asked yes or no of every image


def load_extractors(
    content: str,
    style: str,
    prompt: str,
    judges: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    cache: Path | str | None = None,
    csd: str | None = None,
    vlm: str | None = None,
) -> Extractors:
    """Extractors by their specs (see `load_extractor`), one for each spec; vlm: see `load_vlm`. Raises UserError."""
    judges = judges or {}
    wanted = {content, style, prompt, *judges.values(), *([csd] if csd else [])}
    loaded = {spec: load_extractor(spec, device, cache) for spec in wanted}
    loaded[prompt].texts(["a picture"])  # a prompt extractor without a text tower is refused at once
    for spec in judges.values():
        if not loaded[spec].labels:
            raise UserError(f"classifier {spec}: it names no classes; give the folder of an image classifier")
    found = {aspect: loaded[spec] for aspect, spec in judges.items()}
    return Extractors(
        loaded[content],
        loaded[style],
        loaded[prompt],
        found,
        loaded[csd] if csd else None,
        load_vlm(vlm, device, cache) if vlm else None,
    )


def provenance(extractors: Extractors) -> dict[str, Any]:
    """What the scores were made with: names and fingerprints of the models, versions of the packages."""
    models: dict[str, Extractor | Vlm] = {
        "content": extractors.content,
        "style": extractors.style,
        "prompt": extractors.prompt,
    }
    if extractors.csd is not None:
        models["csd"] = extractors.csd
    if extractors.vlm is not None:
        models["vlm"] = extractors.vlm
    models |= {f"{aspect} judge": judge for aspect, judge in extractors.judges.items()}
    versions = {}
    for package in VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # open_clip is optional
            continue
    named = {role: {"name": model.name, "sha256": model.fingerprint} for role, model in models.items()}
    return {"extractors": named, "versions": versions}
