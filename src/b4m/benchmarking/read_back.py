"""Files read back for `b4m bench --rivals all`: drawn with, and compared with the images that they learned from."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..backbones.registry import open_backbone
from ..config.presets import EMBEDDED, PRESETS
from ..core.where import locate, same
from ..data.images import open_pictures
from ..evaluation.metrics import alignment
from ..evaluation.panel import Extractors, load_extractors
from ..sampling.attach import attach, detach
from ..sampling.sample import sample

IMAGES = "examples/references/content/car"
CLASS = "car"
WORDS = f"snq {CLASS}"
GROUNDS = ("white", "navy", "teal", "pink")
SEEDS = range(4)  # of the scored images, for each of GROUNDS


class Reader:
    """A base model, and what looks at its images where there are models for that: those of the drawn world."""

    def __init__(self, base: str, mixed_precision: str, device: str, size: int) -> None:
        began = time.perf_counter()
        self.backbone = open_backbone(base, mixed_precision=mixed_precision).to(device)
        self.opened = time.perf_counter() - began
        self.size = size
        self.extractors = _extractors() if same(base, EMBEDDED) else None

    def read(self, role: str, file: Path, seconds: float) -> dict[str, float]:
        """Seconds to the first image, and scores. seconds: from the training's start to the file."""
        began = time.perf_counter()
        files: dict[str, Any] = {role: str(file)}
        attach(self.backbone, **files)
        prompts = [f"a photo of a {WORDS} on a {ground} background" for ground in GROUNDS for _ in SEEDS]
        self._draw(prompts[:1], [0])
        found = {"first_image_seconds": seconds + self.opened + time.perf_counter() - began}
        if self.extractors:
            found |= _scores(self.extractors, self._draw(prompts, [*SEEDS] * len(GROUNDS)), prompts)
        detach(self.backbone)
        return found

    def _draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        return sample(self.backbone, prompts, seeds, guidance=2.5, size=self.size)


def newest(folder: Path) -> Path | None:
    """The file that a contender has left there, if any."""
    files = [path for path in folder.rglob("*.safetensors") if "state" not in path.relative_to(folder).parts]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def _extractors() -> Extractors:
    """Those of the drawn world, whose classifier knows this very car."""
    specs = PRESETS["embedded"]["evaluate"]
    content, style, prompt = (locate(specs[f"{kind}_extractor"]) for kind in ("content", "style", "prompt"))
    return load_extractors(content, style, prompt, {"content": locate(specs["content_judge"])})


def _scores(
    extractors: Extractors, images: Sequence[Image.Image], prompts: Sequence[str]
) -> dict[str, float]:
    """Means over the images: content and prompt alignment, and how often the classifier says that it is this car."""
    features = extractors.content.images(images)
    references = extractors.content.images(open_pictures(Path(locate(IMAGES))))
    plain = [prompt.replace("snq ", "") for prompt in prompts]
    seen, read = extractors.prompt.images(images), extractors.prompt.texts(plain)
    verdicts = extractors.judges["content"].classify(images)
    right = f"{CLASS} instance"
    return {
        "content": float(torch.stack([alignment(row[None], references) for row in features]).mean()),
        "prompt": float(
            torch.stack(
                [alignment(row[None], text[None]) for row, text in zip(seen, read, strict=True)]
            ).mean()
        ),
        "content_right": sum(verdict == right for verdict in verdicts) / len(verdicts),
        "images": len(images),
    }
