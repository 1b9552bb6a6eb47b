"""A study as work to do: the trainings and the pictures that its rows need, each named by what determines it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from .config import GenerateConfig, TrainConfig, resolve
from .fields import is_read
from .images import picture_files
from .stages import PLANS
from .study_file import Row, Study


@dataclass(frozen=True)
class Training:
    """One training, in a folder named by all that determines its result."""

    config: TrainConfig
    needs: tuple[Path, ...] = ()  # results of other trainings

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def result(self) -> Path:
        return self.folder / PLANS[self.config.stage].result


@dataclass(frozen=True)
class Drawing:
    """The pictures of one pair under one row and one training seed, in a folder named by all that determines them."""

    row: str
    training_seed: int
    content: str  # reference folder
    style: str
    config: GenerateConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def files(self) -> dict[str, str]:
        """The trained files that are put on the base model: content_file and style_file, or lora_file, or none."""
        found = {name: getattr(self.config, name) for name in ("content_file", "style_file", "lora_file")}
        return {name: path for name, path in found.items() if path}

    @property
    def shots(self) -> tuple[tuple[int, str, int], ...]:
        """(number of the prompt, the prompt, seed) of every picture."""
        asked = product(enumerate(self.config.prompts), self.config.seeds)
        return tuple((number, prompt, seed) for (number, prompt), seed in asked)


class Plan:
    """All trainings of a study, each once however many rows and pairs use it, and all its drawings."""

    def __init__(self, study: Study, root: Path) -> None:
        self.study, self.root = study, root
        self.trainings: dict[str, Training] = {}
        self.drawings: list[Drawing] = []
        # In an order in which they can be done, one training seed whole first.
        self.jobs: dict[Path, Training | Drawing] = {}
        pairs = list(product(study.contents, study.styles))
        for seed, (name, row), (content, style) in product(study.training_seeds, study.rows.items(), pairs):
            drawing = self._drawing(name, row, seed, content, style)
            self.drawings.append(drawing)
            self.jobs.setdefault(drawing.folder, drawing)

    def _train(self, stage: str, name: str, needs: tuple[Path, ...] = (), **settings: Any) -> Training:
        """The training with these settings: a new one, or the one that is planned already."""
        common = self.study.second if stage == "second" else self.study.train
        config = resolve(
            TrainConfig, self.study.preset, stage=stage, **{**self.study.settings, **common, **settings}
        )
        key = _key(config)
        folder = self.root / "trained" / f"{stage}-{name}-{key}"
        training = self.trainings.setdefault(key, Training(replace(config, output_dir=str(folder)), needs))
        self.jobs.setdefault(folder, training)
        return training

    def _one(self, kind: str, row: Row, seed: int, folder: str) -> Training:
        """Stage one of a content or a style."""
        partners = self.study.partner_styles if kind == "content" else self.study.partner_contents
        count = row.content_pictures if kind == "content" else row.style_pictures
        settings = {
            f"{kind}_dir": _first(folder, count),
            f"{kind}_class": self.study.word(folder),
            "partner_dirs": partners[: row.partners],
        }
        return self._train(kind, Path(folder).name, seed=seed, **{**settings, **row.train})

    def _pair(self, row: Row, content: str, style: str) -> dict[str, Any]:
        return {
            "content_dir": _first(content, row.content_pictures),
            "style_dir": _first(style, row.style_pictures),
            "content_class": self.study.word(content),
            "style_class": self.study.word(style),
        }

    def _second(self, row: Row, seed: int, content: str, style: str, files: dict[str, Path]) -> Training:
        """The second stage of a pair, from the two files."""
        settings = {**row.second, **{k: str(v) for k, v in files.items()}}
        name = f"{Path(content).name}-{Path(style).name}"
        pair = self._pair(row, content, style)
        return self._train("second", name, tuple(files.values()), seed=seed, **{**pair, **settings})

    def _joint(self, row: Row, seed: int, content: str, style: str) -> Training:
        name = f"{Path(content).name}-{Path(style).name}"
        return self._train("joint", name, seed=seed, **{**self._pair(row, content, style), **row.train})

    def _joint_all(self, row: Row, seed: int) -> Training:
        """One run on every content and style of the study; the captions beside the pictures tell them apart."""
        folders = {"content_dir": self.study.contents, "style_dir": self.study.styles}
        return self._train("joint", "all", seed=seed, **{**folders, **row.train})

    def _files(self, row: Row, seed: int, content: str, style: str) -> dict[str, Path]:
        """What a row puts on the base model for a pair."""
        if row.method == "words":
            return {}
        if row.method == "joint":
            return {"lora_file": self._joint(row, seed, content, style).result}
        if row.method == "joint-then-second":
            folder = self._joint_all(row, seed).folder
            files = {f"{kind}_file": folder / f"{kind}.safetensors" for kind in ("content", "style")}
            return {"lora_file": self._second(row, seed, content, style, files).result}
        folders = {"content": content, "style": style}
        kinds = [row.method] if row.method in folders else [*folders]
        files = {f"{kind}_file": self._one(kind, row, seed, folders[kind]).result for kind in kinds}
        if row.method == "fused":
            return {"lora_file": self._second(row, seed, content, style, files).result}
        return files

    def _drawing(self, name: str, row: Row, seed: int, content: str, style: str) -> Drawing:
        files = self._files(row, seed, content, style)
        words = self.study.words(content, style)
        if row.method != "words":
            words = {kind: f"{trigger} {words[kind]}" for kind, trigger in self._triggers().items()}
        shared = {
            k: v for k, v in self.study.settings.items() if k in ("base_model", "vae", "mixed_precision")
        }
        config = resolve(
            GenerateConfig,
            self.study.preset,
            prompts=[prompt.format(**words) for prompt in self.study.prompts],
            seeds=self.study.seeds,
            **{**shared, **{k: str(v) for k, v in files.items()}, **self.study.generate, **row.generate},
        )
        folder = self.root / "pictures" / f"{Path(content).name}-{Path(style).name}-{_key(config)}"
        return Drawing(name, seed, content, style, replace(config, output_dir=str(folder)))

    def _triggers(self) -> dict[str, str]:
        default = {f.name: f.default for f in fields(TrainConfig)}
        return {
            kind: self.study.settings.get(f"{kind}_trigger", default[f"{kind}_trigger"])
            for kind in ("content", "style")
        }

    def costs(self) -> Iterator[tuple[str, int]]:
        """(stage, how many), then ("picture", how many): pictures that rows share are counted once."""
        for stage in ("content", "style", "joint", "second"):
            yield stage, sum(training.config.stage == stage for training in self.trainings.values())
        yield "picture", sum({d.folder: len(d.shots) for d in self.drawings}.values())


def _key(config: TrainConfig | GenerateConfig) -> str:
    """Twelve letters for the settings that count.

    Those that the job does not read are left out, so that a preset may change them, and so are defaults: a setting that
    a later release adds renames nothing that is done.
    """
    stage = getattr(config, "stage", None)
    read = [f for f in fields(config) if is_read(f, stage)]
    facts = {f.name: value for f in read if (value := getattr(config, f.name)) != f.default}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _first(folder: str, count: int | None) -> tuple[str, ...]:
    """The folder; or the first `count` of its pictures."""
    return (folder,) if count is None else tuple(str(path) for path in picture_files(Path(folder))[:count])
