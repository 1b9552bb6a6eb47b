"""The base model, asked in plain words (Fig. 15): nothing is learned."""

from collections.abc import Mapping
from pathlib import Path

from ..backbones.protocol import Attached, Backbone
from ..config.training import JobConfig
from ..core.errors import UserError
from ..files.opening import Opened
from .protocol import Pair, Task


class Words:
    """What the others are measured against."""

    name, doc = "words", "the base model, asked in plain words"
    jobs: tuple[type[JobConfig], ...] = ()
    triggers = False
    by_sample = True
    two_dials = False

    def task(self, config: JobConfig) -> Task:
        raise UserError("method words: trains nothing")

    def files(self, pair: Pair) -> dict[str, Path]:
        return {}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        raise UserError("method words: has no files")
