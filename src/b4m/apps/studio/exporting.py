"""Files for other tools: every dialect of `b4m export`, with its metadata, and a workflow that loads it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.atomic import write_text
from ...core.errors import UserError
from ...files.dialects import DIALECTS
from . import library
from .library import Concept
from .project import Project

DTYPES = ("fp16", "bf16", "fp32")


def dialects() -> list[tuple[str, str]]:
    """(label, value): who reads a dialect."""
    return [(f"{dialect.doc} ({name})", name) for name, dialect in DIALECTS.items()]


@dataclass(frozen=True)
class Wish:
    """What the form of Export says."""

    content: Concept | None = None
    style: Concept | None = None
    lora: Concept | None = None
    dialect: str = "kohya-original"
    dtype: str = "fp16"
    content_strength: float = 1.0
    style_strength: float = 1.0


def settings(project: Project, wish: Wish) -> dict[str, Any]:
    """Of `b4m export`. Raises UserError."""
    chosen = {"content": wish.content, "style": wish.style} if wish.lora is None else {"lora": wish.lora}
    files = library.role_files(
        project, {role: concept.ident if concept else None for role, concept in chosen.items()}
    )
    if not files:
        raise UserError("nothing is chosen: choose a content, a style, both, or a fused file")
    return {
        **files,
        "dialect": wish.dialect,
        "dtype": wish.dtype,
        "content_strength": wish.content_strength,
        "style_strength": wish.style_strength,
        "output": project.relative(free_path(project, wish)),
    }


def free_path(project: Project, wish: Wish) -> Path:
    """A path that is not taken, from letters and digits of the names alone."""
    parts = [concept.name for concept in (wish.content, wish.style, wish.lora) if concept is not None]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", "_".join(parts)).strip("-")[:60] or "lora"
    stem = f"{stem}-{wish.dialect}"
    numbered = (f"{stem}-{number}" for number in range(2, 10_000))
    return next(
        path
        for path in (project.exports / f"{name}.safetensors" for name in (stem, *numbered))
        if not path.exists()
    )


def exported(project: Project) -> list[Path]:
    """The files made so far, the newest first."""
    found = [path for path in project.exports.glob("*.*") if path.is_file() and not path.is_symlink()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def workflow(
    file: str, checkpoint: str, prompt: str, seed: int = 77, steps: int = 25, size: int = 1024
) -> dict:
    """A ComfyUI workflow in its API form: checkpoint, LoRA, prompt, Euler sampler, image.

    file, checkpoint: names in ComfyUI's folders models/loras and models/checkpoints.
    """

    def node(kind: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs}

    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "2": node(
            "LoraLoader", model=["1", 0], clip=["1", 1], lora_name=file, strength_model=1.0, strength_clip=1.0
        ),
        "3": node("CLIPTextEncode", clip=["2", 1], text=prompt),
        "4": node("CLIPTextEncode", clip=["2", 1], text=""),
        "5": node("EmptyLatentImage", width=size, height=size, batch_size=1),
        "6": node(
            "KSampler",
            model=["2", 0],
            positive=["3", 0],
            negative=["4", 0],
            latent_image=["5", 0],
            seed=seed,
            steps=steps,
            cfg=5.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "7": node("VAEDecode", samples=["6", 0], vae=["1", 2]),
        "8": node("SaveImage", images=["7", 0], filename_prefix=Path(file).stem),
    }


def write_workflow(project: Project, file: Path, prompt: str) -> Path:
    """Beside the exported file; the checkpoint's name is ComfyUI's usual one for SDXL."""
    path = file.with_suffix(".comfyui.json")
    made = workflow(file.name, "sd_xl_base_1.0.safetensors", prompt)
    write_text(path, json.dumps(made, indent=1) + "\n")
    return path
