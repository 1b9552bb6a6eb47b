"""A study as data: the trainings and the pictures that its rows need, each named by what determines it."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from glob import glob
from itertools import product
from pathlib import Path
from typing import Any

from .config import TrainConfig, resolve
from .errors import UserError
from .fields import check, flag, read_yaml, setting
from .images import picture_files
from .stages import PLANS

# What is put on the base model before a row's pictures are drawn, and how it came about.
METHODS = {
    "words": "the base model, asked in plain words",
    "content": "the content alone (stage one)",
    "style": "the style alone (stage one)",
    "composed": "content and style of stage one, without a second stage",
    "fused": "content and style of stage one, then the second stage",
    "joint": "one run on the pair",
    "joint-then-second": "one run on all contents and styles of the study, then the second stage on the pair",
}


@dataclass(frozen=True)
class Row:
    """One line of a study's table: a method, and the settings in which it differs from the study's."""

    method: str = setting("how the pictures' model is made", "fused", choices=tuple(METHODS))
    train: dict[str, Any] = setting("settings of the trainings that start from nothing", {})
    second: dict[str, Any] = setting("settings of the second stage", {})
    generate: dict[str, Any] = setting("settings of the pictures: steps, guidance, dials", {})
    content_pictures: int | None = setting("use the first so many pictures of a content", None, low=1)
    style_pictures: int | None = setting("use the first so many pictures of a style", None, low=1)
    partners: int | None = setting("use the first so many partners", None, low=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Study:
    """Contents x styles x training seeds x prompts x seeds, under every row. Raises UserError."""

    title: str = setting("what the study asks")
    rows: dict[str, Any] = setting(
        "the table's rows by name: what each changes; the first one is the baseline"
    )
    contents: tuple[str, ...] = setting("a folder of reference pictures for each content")
    styles: tuple[str, ...] = setting("a folder of reference pictures for each style")
    prompts: tuple[str, ...] = setting("what to draw; {content} and {style} stand for the pair's words")
    partner_styles: tuple[str, ...] = setting("partners of the contents: diverse styles", ())
    partner_contents: tuple[str, ...] = setting("partners of the styles: diverse contents", ())
    classes: dict[str, str] = setting("plain words for a folder's name (default: the name itself)", {})
    seeds: tuple[int, ...] = setting("seeds of the pictures, each with every prompt", (0, 1))
    training_seeds: tuple[int, ...] = setting("every training is done once with each of these seeds", (0,))
    preset: str = setting("settings to start from", "embedded")
    settings: dict[str, Any] = setting("settings of all trainings: base_model, mixed_precision, ...", {})
    train: dict[str, Any] = setting("settings of the trainings that start from nothing", {})
    second: dict[str, Any] = setting("settings of all second stages", {})
    generate: dict[str, Any] = setting("settings of all pictures", {})
    evaluate: dict[str, Any] = setting("extractors and judges (default: the preset's)", {})
    labels: dict[str, Any] = setting(
        "what each judge should say: text with {content} and {style}, a list with a word for every prompt, "
        "or a word for every content by its name",
        {},
    )
    leaks: dict[str, Any] = setting(
        "what a judge should not say: names by judge, or for every content by its name", {}
    )
    seconds: dict[str, float] = setting("measured cost of each stage and picture, for the dry run", {})

    def __post_init__(self) -> None:
        check(self)
        for name in ("contents", "styles", "partner_styles", "partner_contents"):
            object.__setattr__(self, name, _expand(name, getattr(self, name)))
        named = {"rows": self.rows, "contents": self.contents, "styles": self.styles, "prompts": self.prompts}
        for name, value in named.items():
            if not value:
                raise UserError(f"{name}: empty; a study needs at least one")
        rows = {name: _build(Row, row or {}, f"row {name!r}") for name, row in self.rows.items()}
        object.__setattr__(self, "rows", rows)
        for label in self.labels.values():
            if isinstance(label, list) and len(label) != len(self.prompts):
                raise UserError(f"labels: {len(label)} for {len(self.prompts)} prompts; give one for each")
        for by_content in (v for v in (*self.labels.values(), *self.leaks.values()) if isinstance(v, dict)):
            if missing := {self.word(content) for content in self.contents} - set(by_content):
                raise UserError(f"labels and leaks: nothing for {min(missing)}; give one for each content")
        for prompt in self.prompts:
            try:
                prompt.format(content="bear", style="chalk")
            except (KeyError, IndexError, ValueError) as error:
                raise UserError(
                    f"prompt {prompt!r}: only {{content}} and {{style}} can be filled in"
                ) from error

    def word(self, folder: str) -> str:
        """The plain word of a reference folder."""
        name = Path(folder).name
        return self.classes.get(name, name.replace("_", " "))

    def words(self, content: str, style: str) -> dict[str, str]:
        """What fills a prompt's {content} and {style}, without trigger words."""
        return {"content": self.word(content), "style": self.word(style)}

    def labels_of(self, content: str, style: str, prompt: int) -> dict[str, str]:
        """What the judges should say of a picture drawn from prompt number `prompt`."""
        words = self.words(content, style)

        def said(label: str | list | dict) -> str:
            if isinstance(label, dict):
                return label[words["content"]]
            return label.format(**words) if isinstance(label, str) else label[prompt]

        return {judge: said(label) for judge, label in self.labels.items()}

    def leaks_of(self, content: str) -> dict[str, tuple[str, ...]]:
        """What the judges should not say of a picture of `content`."""
        return {
            judge: tuple(names[self.word(content)] if isinstance(names, dict) else names)
            for judge, names in self.leaks.items()
        }


def _expand(name: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Each pattern as the folders or files that it matches, sorted, without captions and hidden files."""
    found: list[str] = []
    for path in paths:
        matches = sorted(glob(path)) if "*" in path else [path]
        if not matches:
            raise UserError(f"{name}: nothing matches {path}; put a folder of pictures there for each")
        found += matches
    return tuple(found)


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
    """The pictures of one pair under one row and one training seed."""

    row: str
    training_seed: int
    content: str  # reference folder
    style: str
    files: dict[str, str]  # content_file, style_file or lora_file -> path
    shots: tuple[tuple[int, str, int], ...]  # (number of the prompt, the prompt, seed)
    settings: dict[str, Any] = field(default_factory=dict)


def read_study(path: Path | str, subjects: str | None = None) -> Study:
    """The study in a YAML file, on its own subjects or on those in another file. Raises UserError."""
    values = read_yaml(path)
    own = values.pop("subjects", None)
    if own is not None and not isinstance(own, str):
        raise UserError(f"{path}: subjects {own!r}: expected the name of a YAML file")
    file = subjects or own
    return _build(Study, {**(read_yaml(file) if file else {}), **values}, str(path))


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected lines of the form 'name: value'")
    known = [f.name for f in fields(cls)]
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{where}: unknown setting {unknown[0]!r}; known: {', '.join(known)}")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    except TypeError as error:
        missing = [name for name in known if f"'{name}'" in str(error)]
        raise UserError(f"{where}: {flag(missing[0])[2:] if missing else error} is missing") from None


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
            self.jobs.setdefault(self.folder_of(drawing), drawing)

    def _train(self, stage: str, name: str, needs: tuple[Path, ...] = (), **settings: Any) -> Training:
        """The training with these settings: a new one, or the one that is planned already."""
        common = self.study.second if stage == "second" else self.study.train
        config = resolve(
            TrainConfig, self.study.preset, stage=stage, **{**self.study.settings, **common, **settings}
        )
        # Defaults are left out, so that a setting which a later release adds does not rename what is done.
        key = _key({f.name: value for f in fields(config) if (value := getattr(config, f.name)) != f.default})
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
        shots = tuple(
            (number, prompt.format(**words), seed)
            for (number, prompt), seed in product(enumerate(self.study.prompts), self.study.seeds)
        )
        settings = {**self.study.generate, **row.generate}
        return Drawing(name, seed, content, style, {k: str(v) for k, v in files.items()}, shots, settings)

    def _triggers(self) -> dict[str, str]:
        default = {f.name: f.default for f in fields(TrainConfig)}
        return {
            kind: self.study.settings.get(f"{kind}_trigger", default[f"{kind}_trigger"])
            for kind in ("content", "style")
        }

    def folder_of(self, drawing: Drawing) -> Path:
        """Where a drawing's pictures go: named by the model's files, the prompts, the seeds and the settings."""
        facts = [
            drawing.files,
            drawing.shots,
            drawing.settings,
            self.study.preset,
            self.study.settings.get("base_model"),
        ]
        return (
            self.root / "pictures" / f"{Path(drawing.content).name}-{Path(drawing.style).name}-{_key(facts)}"
        )

    def costs(self) -> Iterator[tuple[str, int]]:
        """(stage, how many), then ("picture", how many): pictures that rows share are counted once."""
        for stage in ("content", "style", "joint", "second"):
            yield stage, sum(training.config.stage == stage for training in self.trainings.values())
        yield "picture", sum({self.folder_of(d): len(d.shots) for d in self.drawings}.values())


def _key(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _first(folder: str, count: int | None) -> tuple[str, ...]:
    """The folder; or the first `count` of its pictures."""
    return (folder,) if count is None else tuple(str(path) for path in picture_files(Path(folder))[:count])
