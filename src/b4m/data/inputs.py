"""What a training shows its model: checked images with captions, and which of them a micro-batch takes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.seeds import seeded
from .findings import Finding
from .images import Picture, read_folder
from .partners import partner_words

KINDS = ("content", "style")
NAMELESS = "its name does not say what it shows (give --partner-prompts, or a caption beside it)"


@dataclass(frozen=True)
class Group:
    """References of one concept, still to be read. prompt: the caption of images that have none of their own."""

    kind: str  # one of KINDS
    paths: Sequence[str]  # folders or files
    prompt: str
    samples: int = 1  # in every micro-batch
    partner: bool = False
    trigger: str = ""  # the word that will call the concept
    given: str = ""  # the option that the user gave `prompt` with


@dataclass(frozen=True)
class Source:
    """Samples of one concept in every micro-batch, cycling through its images."""

    kind: str  # one of KINDS
    partner: bool
    images: tuple[int, ...]  # indices into Inputs.images
    samples: int
    trigger: str = ""  # the word that will call the concept
    # Of the term beside Eq. 12: images of the class or a teacher's paths, which a model draws.
    prior: bool = False
    label: str = "prior"  # what a line calls a source that was drawn

    def pick(self, key: Sequence[int | str], position: int) -> int:
        """The image of sample number `position`, counted from the start, of the order seeded by `key`."""
        epoch, place = divmod(position, len(self.images))
        order = torch.randperm(len(self.images), generator=seeded("order", *key, epoch))
        return self.images[int(order[place])]


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch shows."""

    samples: tuple[int, ...]  # numbers of those that are there, contents first, of all that it may hold
    images: tuple[int, ...]  # of each sample: index into Inputs.images
    partner_share: float = 1.0  # what its mean over partners counts in a step's mean over micro-batches


@dataclass(frozen=True)
class Inputs:
    """All images of a training, with their captions, and the sources that share a micro-batch.

    Sources of contents come first, but for a prior, which is the last of all: so it changes no other sample's number,
    and with it neither that sample's image nor its noise.
    partner_samples: how many of the partners a step draws; None: all of them are in every micro-batch.
    """

    sources: tuple[Source, ...]
    images: tuple[Picture, ...]
    prompts: tuple[str, ...]  # of the images
    findings: tuple[Finding, ...] = ()  # what the user should know of the files
    partner_samples: int | None = None
    prior_weight: float = 1.0  # what the mean over the prior's samples counts beside Eq. 12
    beside: str = "prior_loss"  # what the log calls that term

    @property
    def samples(self) -> int:
        """Samples of one micro-batch."""
        return sum(source.samples for source in self.sources)

    @property
    def shows(self) -> tuple[str, ...]:
        """(samples,) the kind of each."""
        return tuple(source.kind for source in self.sources for _ in range(source.samples))

    @property
    def content_samples(self) -> int:
        """How many of them show contents; where there is no prior, they are the first ones."""
        return self.shows.count("content")

    @property
    def is_target(self) -> torch.Tensor:
        """(samples,) bool: the samples of the first term of Eq. 12; where there are no partners, the content's."""
        partners = any(source.partner for source in self.sources)
        return self._those(
            lambda source: not source.prior and (not source.partner if partners else source.kind == "content")
        )

    @property
    def is_prior(self) -> torch.Tensor | None:
        """(samples,) bool: the samples of the term beside Eq. 12; None where there is none."""
        return self._those(lambda source: source.prior) if any(s.prior for s in self.sources) else None

    def _those(self, chosen: Callable[[Source], bool]) -> torch.Tensor:
        """(samples,) bool: those of the chosen sources."""
        return torch.tensor([chosen(source) for source in self.sources for _ in range(source.samples)])

    def picked(self, seed: int, step: int) -> list[int]:
        """Images (samples,) of micro-batch number `step`: a function of (seed, step, sample) alone."""
        return [
            source.pick((seed, number), step * source.samples + sample)
            for number, source in enumerate(self.sources)
            for sample in range(source.samples)
        ]

    def micro_batch(self, seed: int, number: int, of_step: int) -> MicroBatch:
        """Micro-batch `number`, counted from the start, where a step has `of_step`: a function of these alone.

        The partners that a step draws are spread over its micro-batches. An epoch is as many steps as draw no partner
        twice; then all are shuffled again. Each is as likely as any other at every step, so that the step's mean over
        its k partners has the mean over all of them, that of Eq. 12, for its expectation.
        """
        images = self.picked(seed, number)
        if self.partner_samples is None:
            return self._shown(dict(enumerate(images)))
        step, place = divmod(number, of_step)
        partners = self._partners_of(seed, step)
        is_partner = self._those(lambda source: source.partner).tolist()
        due = [i for i in range(len(partners)) if i * of_step // len(partners) == place]
        first = is_partner.index(True)  # partners are one sample each, side by side
        shown = {sample: image for sample, image in enumerate(images) if not is_partner[sample]}
        shown |= {first + i: partners[i] for i in due}
        return self._shown(shown, len(due) * of_step / len(partners))

    def _shown(self, images: Mapping[int, int], partner_share: float = 1.0) -> MicroBatch:
        """These images, by sample, with those of contents first, as the routing of Eq. 12 wants them."""
        shows = self.shows
        samples = tuple(sorted(images, key=lambda sample: (KINDS.index(shows[sample]), sample)))
        return MicroBatch(samples, tuple(images[sample] for sample in samples), partner_share)

    def most_samples(self, of_step: int) -> int:
        """Samples of the largest micro-batch, where a step has `of_step`."""
        partners = sum(source.partner for source in self.sources)
        due = partners if self.partner_samples is None else math.ceil(self.partner_samples / of_step)
        return self.samples - partners + due

    def _partners_of(self, seed: int, step: int) -> list[int]:
        """An image of each partner that a step draws."""
        numbers = [number for number, source in enumerate(self.sources) if source.partner]
        k = self.partner_samples or len(numbers)
        epoch, place = divmod(step, len(numbers) // k)
        order = torch.randperm(len(numbers), generator=seeded("partners", seed, epoch))
        drawn = [numbers[i] for i in order[place * k : (place + 1) * k]]
        return [self.sources[number].pick((seed, number), epoch) for number in drawn]

    def facts(self) -> dict:
        """What the inputs hold, whatever the files are called."""
        return {"pictures": [image.sha256 for image in self.images], "captions": self.prompts}


def read_inputs(
    groups: Sequence[Group], size: int, fit: str, alpha: str = "white", buckets: bool = False
) -> Inputs:
    """Read and check the images and captions of `groups`, contents first. Raises UserError, naming the file."""
    images: list[Picture] = []
    prompts: list[str] = []
    sources: list[Source] = []
    findings: list[Finding] = []
    for group in sorted(
        groups, key=lambda group: KINDS.index(group.kind)
    ):  # stable: partners keep their order
        loaded = [read_folder(path, size, fit, alpha, buckets) for path in group.paths]
        found = [image for each in loaded for image in each.pictures]
        indices = tuple(range(len(images), len(images) + len(found)))
        sources.append(Source(group.kind, group.partner, indices, group.samples, group.trigger))
        images += found
        prompts += [image.caption or group.prompt for image in found]
        findings += [*(finding for each in loaded for finding in each.findings), *_of_captions(group, found)]
    return Inputs(tuple(sources), tuple(images), tuple(prompts), tuple(dict.fromkeys(findings)))


def _of_captions(group: Group, images: Sequence[Picture]) -> list[Finding]:
    """What the user should know of the prompts that the images of a group have."""
    own = [image for image in images if image.caption]
    if group.given and len(own) == len(images):
        unused = f"{group.given} not used, since all images have captions of their own"
        return [Finding(Path(path), unused) for path in group.paths]
    if group.partner and not group.given and len(own) < len(images):
        return [
            Finding(Path(path), NAMELESS, group.prompt) for path in group.paths if not partner_words(path)
        ]
    return []
