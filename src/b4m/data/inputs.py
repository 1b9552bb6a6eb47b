"""What a training shows its model: checked images with captions, and which of them a micro-batch takes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.seeds import seeded
from .images import Picture, load_folder

KINDS = ("content", "style")


@dataclass(frozen=True)
class Group:
    """References of one concept, still to be read. prompt: the caption of images that have none of their own."""

    kind: str  # one of KINDS
    paths: Sequence[str]  # folders or files
    prompt: str
    samples: int = 1  # in every micro-batch
    partner: bool = False


@dataclass(frozen=True)
class Source:
    """Samples of one concept in every micro-batch, cycling through its images."""

    kind: str  # one of KINDS
    partner: bool
    images: tuple[int, ...]  # indices into Inputs.images
    samples: int

    def pick(self, key: Sequence[int | str], position: int) -> int:
        """The image of sample number `position`, counted from the start, of the order seeded by `key`."""
        epoch, place = divmod(position, len(self.images))
        order = torch.randperm(len(self.images), generator=seeded("order", *key, epoch))
        return self.images[int(order[place])]


@dataclass(frozen=True)
class Inputs:
    """All images of a training, with their captions, and the sources that share a micro-batch (content first)."""

    sources: tuple[Source, ...]
    images: tuple[Picture, ...]
    prompts: tuple[str, ...]  # of the images

    @property
    def samples(self) -> int:
        """Samples of one micro-batch."""
        return sum(source.samples for source in self.sources)

    @property
    def content_samples(self) -> int:
        """How many of them, the first ones, show contents."""
        return sum(source.samples for source in self.sources if source.kind == "content")

    @property
    def is_target(self) -> torch.Tensor:
        """(samples,) bool: the samples of the first term of Eq. 12; where there are no partners, the content's."""
        partners = any(source.partner for source in self.sources)
        return torch.tensor(
            [
                not source.partner if partners else source.kind == "content"
                for source in self.sources
                for _ in range(source.samples)
            ]
        )

    def picked(self, seed: int, step: int) -> list[int]:
        """Images (samples,) of micro-batch number `step`: a function of (seed, step, sample) alone."""
        return [
            source.pick((seed, number), step * source.samples + sample)
            for number, source in enumerate(self.sources)
            for sample in range(source.samples)
        ]

    def facts(self) -> dict:
        """What the inputs hold, whatever the files are called."""
        return {"pictures": [image.sha256 for image in self.images], "captions": self.prompts}

    def shown(self) -> list[dict]:
        """What pictures.json says: which images fill the samples, under which prompts."""
        return [
            {
                "file": str(self.images[number].path),
                "sha256": self.images[number].sha256,
                "prompt": self.prompts[number],
                "shows": f"partner {source.kind}" if source.partner else source.kind,
            }
            for source in self.sources
            for number in source.images
        ]


def read_inputs(groups: Sequence[Group], size: int, fit: str) -> Inputs:
    """Read and check the images and captions of `groups`, contents first. Raises UserError, naming the file."""
    images: list[Picture] = []
    prompts: list[str] = []
    sources = []
    for group in sorted(
        groups, key=lambda group: KINDS.index(group.kind)
    ):  # stable: partners keep their order
        found = [image for path in group.paths for image in load_folder(path, size, fit)]
        indices = tuple(range(len(images), len(images) + len(found)))
        sources.append(Source(group.kind, group.partner, indices, group.samples))
        images += found
        prompts += [image.caption or group.prompt for image in found]
    return Inputs(tuple(sources), tuple(images), tuple(prompts))


def partner_prompt(kind: str, folder: str) -> str:
    """Caption of a partner without one: "styles/02_paper-cut.png" -> "a picture in paper cut style"."""
    name = " ".join(re.findall(r"[^\W\d_]+", Path(folder).stem)) or "another"
    return f"a photo of {name}" if kind == "content" else f"a picture in {name} style"
