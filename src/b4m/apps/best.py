"""`b4m generate --best N`: of all seeds, the images that come closest to the references."""

import sys
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config.presets import EMBEDDED, PRESETS
from ..config.sampling import GenerateConfig
from ..core.where import same
from ..data.images import open_pictures
from ..evaluation.extractors import Extractor, load_extractor
from ..evaluation.metrics import alignment
from ..sampling.generate import Drawn


class Best:
    """Chooses by alignment, the mean cosine with the references as in `b4m evaluate`: content, style, or both.

    References and extractors are read when it is made: before anything is drawn. Raises UserError.
    """

    def __init__(self, config: GenerateConfig) -> None:
        preset = "embedded" if same(config.base_model, EMBEDDED) else "sdxl"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.seeds, self.count = len(config.seeds), config.best
        self.extractors: dict[str, Extractor] = {}
        self.references: dict[str, Tensor] = {}
        for aspect in ("content", "style"):
            folder = getattr(config, f"{aspect}_dir")
            if folder is None:
                continue
            name = f"{aspect}_extractor"
            pictures = open_pictures(folder)
            self.extractors[aspect] = load_extractor(
                getattr(config, name) or PRESETS[preset]["evaluate"][name], device
            )
            self.references[aspect] = self.extractors[aspect].images(pictures)

    def __call__(self, drawn: Sequence[Drawn]) -> list[Drawn]:
        """The best of each prompt, the best first. drawn: a prompt's images side by side."""
        scored = self._scored(drawn)
        kept: list[Drawn] = []
        for start in range(0, len(scored), self.seeds):
            of_prompt = scored[start : start + self.seeds]
            best = sorted(of_prompt, key=_mean, reverse=True)[: self.count]
            told = ", ".join(f"seed {each.seed} ({_told([each])})" for each in best)
            print(
                f"best of {self.seeds} for {best[0].prompt!r}: {told}; all: {_told(of_prompt)}",
                file=sys.stderr,
            )
            kept += best
        return kept

    def _scored(self, drawn: Sequence[Drawn]) -> list[Drawn]:
        images = [each.image for each in drawn]
        columns = {
            aspect: alignment(extractor.images(images), self.references[aspect]).tolist()
            for aspect, extractor in self.extractors.items()
        }
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [replace(each, scores=scores) for each, scores in zip(drawn, rows, strict=True)]


def choice(config: GenerateConfig) -> Best | None:
    """What keeps some of the images that `config` draws; None: all are kept."""
    return Best(config) if config.best else None


def _told(drawn: Sequence[Drawn]) -> str:
    """Mean scores: "content 0.712, style 0.655"."""
    means = {name: sum(each.scores[name] for each in drawn) / len(drawn) for name in drawn[0].scores}
    return ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())


def _mean(drawn: Drawn) -> float:
    return sum(drawn.scores.values()) / len(drawn.scores)
