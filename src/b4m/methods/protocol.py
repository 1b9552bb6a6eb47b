"""What a method is to the rest of the house: its jobs, what they learn, and how its files are put on a base model.

A method is one file. Study, evaluation, sampling and the command line know methods by name only (`registry`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ..backbones.cache import Cache
from ..backbones.protocol import Attached, Backbone, Conditions
from ..config.training import JobConfig
from ..core.transfer import sent
from ..data.inputs import Inputs
from ..files.opening import Opened


@dataclass(frozen=True)
class Batch:
    """Samples of one micro-batch, or of a part of it. A row of each tensor is a sample."""

    images: Tensor  # (k,) index into Inputs.images
    latents: Tensor  # (k, c, h, w) float32, without noise
    noise: Tensor  # like latents
    timesteps: Tensor  # (k,) int64
    weights: Tensor  # (k,) what each sample counts in Eq. 12
    conditions: Conditions
    places: Sequence[int]  # of the samples in the micro-batch
    mask: Tensor | None = (
        None  # (k, 1, h, w) what each latent counts in its sample's loss; None: all the same
    )

    def of(self, rows: Sequence[int]) -> "Batch":
        """Some of the samples, by their rows."""
        if len(rows) == len(self.places):
            return self
        index = sent(torch.tensor(rows), self.latents.device)
        names = ("images", "latents", "noise", "timesteps", "weights")
        return replace(
            self,
            **{name: getattr(self, name)[index] for name in names},
            conditions={name: values[index] for name, values in self.conditions.items()},
            places=[self.places[row] for row in rows],
            mask=None if self.mask is None else self.mask[index],
        )


class Learner(Protocol):
    """What one training changes, on a backbone that stays as it is."""

    backbone: Backbone
    reads_prompts: bool  # in every step, since the conditioning learns too: the text encoders stay

    @property
    def named(self) -> Mapping[str, nn.Parameter]:
        """All that learns, by the names under which states keep it."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What the optimizer steps: the parameters of `named`, or stacks of them."""

    @property
    def found(self) -> Mapping[str, Tensor]:
        """What was measured before the first step and stays, by the names under which states keep it beside `named`."""

    def optimizer(self) -> torch.optim.Optimizer:
        """A new one, over `parameters`."""

    def zero_grad(self) -> None:
        """Forget all gradients."""

    def gather(self) -> None:
        """Bring the gradients of `named` to `parameters`."""

    def encode(self, device: torch.device) -> Cache:
        """Images and prompts, encoded before the loop begins."""

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(the scalar to differentiate, the loss (k,) of each sample, detached), float32."""

    def measured(self, step: int) -> dict[str, Tensor]:
        """What the log should say beside the losses after step number `step`: a function of what has been learned.

        Each (), on the device still, so that the host need not wait for it.
        """

    def learns_from(self, sample: int) -> set[str]:
        """The kinds (start of a name in `named`) that sample number `sample` of a micro-batch trains."""

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        """Write the result and what comes beside it. facts: metadata that every result carries."""


class Task(Protocol):
    """One training with its inputs read and checked. Nothing here needs the base model."""

    inputs: Inputs
    preview_prompt: str  # what sample images show

    def facts(self) -> dict[str, Any]:
        """What the inputs hold, whatever the files are called."""

    def start(self, backbone: Backbone) -> Learner:
        """Put what learns on the backbone's denoiser, as training starts. Raises UserError for files that misfit."""


class Assembly(Protocol):
    """One file made of finished ones, with its inputs read and checked: nothing is learned, there are no steps."""

    def make(self, folder: Path, facts: Mapping[str, str]) -> None:
        """Write the result. facts: metadata that every result carries. Raises UserError for files that misfit."""


class Pair(Protocol):
    """One content and one style of a study under one row and one training seed."""

    def train(self, job: type[JobConfig], everything: bool = False, **settings: Any) -> Path:
        """The result of one job, which is done once however many rows need it.

        Its references are those that the job's settings ask for: the pair's content, its style, partners of the
        other kind; with `everything` all contents and styles of the study at once.
        """


class Method(Protocol):
    """One way to learn a content and a style and to bring them together."""

    name: ClassVar[str]
    doc: ClassVar[str]  # one line, for help and for tables
    jobs: ClassVar[
        tuple[type[JobConfig], ...]
    ]  # settings of its trainings (TrainConfig) and assemblies (others)
    triggers: ClassVar[bool]  # whether prompts call its concepts by trigger words
    by_sample: ClassVar[bool]  # whether samples of a batch may differ in strength, as --negative base asks
    two_dials: ClassVar[bool]  # whether its images turn content and style apart

    def task(self, config: Any) -> Any:
        """Inputs of one of `jobs`, read and checked: a `Task` of a `TrainConfig`, else an `Assembly`. UserError."""

    def files(self, pair: Pair) -> dict[str, Path]:
        """What is put on the base model for a pair: content_file and style_file, or lora_file, or nothing."""

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        """Put opened files (by role: content, style, lora) on the denoiser. Raises UserError."""
