"""A study as work to do: the trainings and the images that its rows need, each named by what determines it."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ..config.fields import changed, deciding
from ..config.resolve import resolve
from ..config.sampling import GenerateConfig
from ..config.stages import JOBS
from ..config.training import JobConfig, ShowsContent, ShowsStyle
from ..core.errors import UserError
from ..core.where import locate
from ..data.dataset import called, first_of
from ..data.images import picture_files
from ..methods.registry import method
from .file import Row, Study

STAGES = tuple(JOBS)
# Of a study and of a row: settings of the trainings of concepts, of second stages, of what puts two files together.
SECTIONS = ("train", "second", "merge")


@dataclass(frozen=True)
class Training:
    """One training, or whatever else makes a file, in a folder named by all that determines its result."""

    config: JobConfig
    # Files that other trainings make; for their results, the keys of these: what a worker elsewhere must know.
    needs: Mapping[Path, str | None] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def result(self) -> Path:
        return self.folder / self.config.result


@dataclass(frozen=True)
class Drawing:
    """The images of one pair under one row and one training seed, in a folder named by all that determines them."""

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
        """What is put on the base model: content_file and style_file, or lora_file, or none; and any more."""
        found = {name: getattr(self.config, name) for name in ("content_file", "style_file", "lora_file")}
        found |= {f"more_files {number}": path for number, path in enumerate(self.config.more_files)}
        return {name: path for name, path in found.items() if path}

    image: Callable[[int, str, int], str]  # file name by number of the prompt, prompt and seed

    @property
    def asked(self) -> tuple["Asked", ...]:
        """Every image, a prompt's side by side."""
        asked = product(enumerate(self.config.prompts), self.config.seeds)
        return tuple(
            Asked(number, prompt, seed, self.folder / self.image(number, prompt, seed))
            for (number, prompt), seed in asked
        )

    @property
    def left(self) -> tuple["Asked", ...]:
        """The images that are not drawn yet: the folder's name says what they are drawn with."""
        return tuple(each for each in self.asked if not each.file.exists())


class Asked(NamedTuple):
    """One image of a drawing."""

    number: int  # of the prompt
    prompt: str
    seed: int
    file: Path


class Names:
    """How a study calls its work: by settings and by paths as they are written."""

    def key(self, config: JobConfig | GenerateConfig, made: Mapping[str, str]) -> str:
        """Of the settings that decide the result. made: path of the result of every planned training -> its key."""
        return _key(config)

    def check(self, training: Training) -> None:
        """Raises UserError for a training that is no longer what its folder's name says."""

    def concept(self, study: Study, folder: str) -> str:
        """Of a reference folder, as part of a folder's name."""
        return Path(called(folder)).name

    @staticmethod
    def image(number: int, prompt: str, seed: int) -> str:
        """File name of an image."""
        return f"{number:02d}_seed{seed}.png"


class Plan:
    """All trainings of a study, each once however many rows and pairs use it, and all its drawings."""

    def __init__(self, study: Study, root: Path, names: Names | None = None) -> None:
        self.study, self.root, self.names = study, root, names or Names()
        self.trainings: dict[str, Training] = {}
        self.made: dict[str, str] = {}  # path of a training's result -> its key
        # By row and section: what the settings of its trainings are called.
        self.read: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self.drawings: list[Drawing] = []
        # By folder, in an order in which they can be done, one training seed whole first.
        self.jobs: dict[str, Training | Drawing] = {}
        self.planned: dict[tuple, Path] = {}  # what a method has asked for -> its result
        self._templates: dict[tuple[str, ...], GenerateConfig] = {}  # by row and roles of its files
        self._called = self.triggers()
        pairs = list(product(study.contents, study.styles))
        for seed, (name, row), (content, style) in product(study.training_seeds, study.rows.items(), pairs):
            drawing = self._drawing(name, row, seed, content, style)
            self.drawings.append(drawing)
            self.jobs.setdefault(drawing.config.output_dir, drawing)
        self._check_read()

    def _check_read(self) -> None:
        """Raises UserError for a setting that nothing reads: it would be left out in silence.

        A row's must be read by one of its own trainings; the study's by any job, since subjects serve many studies.
        """
        known = set().union(*self.read.values(), *({f.name for f in fields(job)} for job in JOBS.values()))
        own = self.study.settings | self.study.train | self.study.second | self.study.merge
        if unknown := sorted(own.keys() - known):
            raise UserError(
                f"settings, train, second and merge: unknown setting {unknown[0]!r}; known: {', '.join(sorted(known))}"
            )
        for (name, row), section in product(self.study.rows.items(), SECTIONS):
            read = self.read[name, section]
            if unread := sorted(getattr(row, section).keys() - read):
                raise UserError(
                    f"row {name!r}: {section}: no such training of method {row.method} reads {unread[0]!r}; "
                    f"read: {', '.join(sorted(read)) or 'nothing'}"
                )

    def train(self, job: type[JobConfig], name: str, needs: Sequence[Path], **settings: Any) -> Path:
        """The result of the training with these settings: a new one, or the one that is planned already."""
        config = resolve(job, self.study.preset, **settings)
        key = self.names.key(config, self.made)
        folder = self.root / "trained" / f"{job.stage}-{name}-{key}"
        training = self.trainings.get(key)
        if training is None:
            config = replace(config, output_dir=str(folder))
            training = self.trainings[key] = Training(
                config, {path: self.made.get(str(path)) for path in needs}
            )
            self.made[str(training.result)] = key
        self.jobs.setdefault(str(folder), training)
        return training.result

    def _drawing(self, name: str, row: Row, seed: int, content: str, style: str) -> Drawing:
        way = method(row.method)
        files = {
            role: str(path) for role, path in way.files(PairOf(self, name, seed, content, style)).items()
        }
        words = self.study.words(content, style)
        if way.triggers:
            words = {kind: f"{trigger} {words[kind]}" for kind, trigger in self._called.items()}
        prompts = tuple(prompt.format(**words) for prompt in self.study.prompts)
        config = self._generate(name, row, prompts, files)
        if not way.by_sample and (config.negative == "base" or config.compose == "predictions"):
            raise UserError(
                f"row {name!r}: negative base and compose predictions are not for method {row.method}, whose files "
                "have one strength for a whole batch; say negative: adapted and compose: weights under its generate"
            )
        if files and not way.two_dials and config.content_strength != config.style_strength:
            raise UserError(
                f"row {name!r}: content strength {config.content_strength:g} and style strength "
                f"{config.style_strength:g}: files of method {row.method} turn both at once; give the same for both"
            )
        shown = "-".join(self.names.concept(self.study, folder) for folder in (content, style))
        folder = self.root / "pictures" / f"{shown}-{self.names.key(config, self.made)}"
        return Drawing(name, seed, content, style, changed(config, output_dir=str(folder)), self.names.image)

    def _generate(
        self, name: str, row: Row, prompts: tuple[str, ...], files: dict[str, str]
    ) -> GenerateConfig:
        """The settings of a row's images, added up once: its pairs differ in prompts and files alone.

        Raises UserError for what the row's files cannot be drawn with.
        """
        given = {**self.study.generate, **row.generate}
        if template := self._templates.get((name, *files)):
            return changed(template, prompts=prompts, **{k: v for k, v in files.items() if k not in given})
        shared = {
            k: v for k, v in self.study.settings.items() if k in ("base_model", "vae", "mixed_precision")
        }
        if not method(row.method).by_sample:
            shared["negative"] = "adapted"  # whatever the preset has: its files can be drawn no other way
        fixed = self._drawn_as(files)
        values = {asked: value for asked, (_, value) in fixed.items()}
        settings = {**shared, **files, **self.study.generate, **values, **row.generate}
        config = resolve(
            GenerateConfig, self.study.preset, prompts=prompts, seeds=self.study.seeds, **settings
        )
        for asked, (own, value) in fixed.items():
            if (said := getattr(config, asked)) != value:
                raise UserError(
                    f"row {name!r}: {asked} {said}: a file of method {row.method} is drawn as it is made, with "
                    f"{value}; leave it out, or say {own}"
                )
        return self._templates.setdefault((name, *files), config)

    def _drawn_as(self, files: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
        """Settings of images of which their files leave no choice -> where a row says the same, and the value."""
        makers = [self.jobs.get(str(Path(path).parent)) for path in files.values()]
        configs = [maker.config for maker in makers if isinstance(maker, Training)]
        return {
            name: (f"{own} under {config.section}", getattr(config, own))
            for config in configs
            for name, own in getattr(config, "drawn_as", {}).items()
        }

    def triggers(self) -> dict[str, str]:
        """The words that call a content and a style, by kind."""
        default = {"content": ShowsContent.content_trigger, "style": ShowsStyle.style_trigger}
        return {kind: self.study.settings.get(f"{kind}_trigger", word) for kind, word in default.items()}

    def costs(self) -> Iterator[tuple[str, int]]:
        """(stage, how many), then ("picture", how many): images that rows share are counted once."""
        stages = [training.config.stage for training in self.trainings.values()]
        for stage in dict.fromkeys((*STAGES, *stages)):
            yield stage, stages.count(stage)
        yield "picture", sum({d.folder: len(d.asked) for d in self.drawings}.values())


@dataclass(frozen=True)
class PairOf:
    """A `methods.protocol.Pair`: what a method may ask a study to train."""

    plan: Plan
    name: str  # of the row
    seed: int
    content: str  # reference folder
    style: str

    @property
    def row(self) -> Row:
        return self.plan.study.rows[self.name]

    def train(self, job: type[JobConfig], everything: bool = False, **settings: Any) -> Path:
        """The result; of a million pairs each concept is asked for a thousand times, and worked out once."""
        asked = _asked(job)
        shown = [each for name, each in self._shown.items() if name in asked]
        key = (job, self.name, self.seed, everything, *shown, repr(settings))
        if key not in self.plan.planned:
            self.plan.planned[key] = self._train(job, asked, everything, settings)
        return self.plan.planned[key]

    def _train(
        self, job: type[JobConfig], asked: Set[str], everything: bool, settings: dict[str, Any]
    ) -> Path:
        study, row = self.plan.study, self.row
        needs = tuple(value for value in settings.values() if isinstance(value, Path))
        given = {
            **study.settings,
            **getattr(study, job.section),
            **self._references(job, asked, everything),
            "seed": self.seed,
            **getattr(row, job.section),
        }
        self.plan.read[self.name, job.section] |= asked
        given = {name: value for name, value in given.items() if name in asked}
        files = {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
        return self.plan.train(job, "all" if everything else self._name(asked), needs, **given, **files)

    def _references(self, job: type[JobConfig], asked: Set[str], everything: bool) -> dict[str, Any]:
        """The images that the job's settings ask for, and what they are called."""
        study, row, found = self.plan.study, self.row, {}
        for kind, folder in (("content", self.content), ("style", self.style)):
            if f"{kind}_dir" not in asked:
                continue
            if everything:
                found[f"{kind}_dir"] = getattr(study, f"{kind}s")
                continue
            found[f"{kind}_dir"] = _first(folder, getattr(row, f"{kind}_pictures"))
            found[f"{kind}_class"] = study.word(folder)
        if "partner_dirs" in asked:
            name = "partner_styles" if "content_dir" in asked else "partner_contents"
            if not (partners := getattr(study, name)) and "partner_dirs" in job.needs:
                raise UserError(f"{name}: none given; a {job.stage} is learned beside some (five are usual)")
            found["partner_dirs"] = partners[: row.partners]
        return found

    def _name(self, asked: Set[str]) -> str:
        name = self.plan.names.concept
        return "-".join(name(self.plan.study, folder) for key, folder in self._shown.items() if key in asked)

    @property
    def _shown(self) -> dict[str, str]:
        return {"content_dir": self.content, "style_dir": self.style}


@cache
def _asked(job: type[JobConfig]) -> frozenset[str]:
    """The settings that the job reads."""
    return frozenset(f.name for f in fields(job))


def _key(config: JobConfig | GenerateConfig) -> str:
    """Twelve letters for the settings that decide the result.

    Defaults are left out: a setting that a later release adds renames nothing that is done. So are the seeds of
    images, which a file is called by: with more of them a folder takes more images, and keeps those that it has.
    """
    decide = deciding(type(config), paths=True)
    facts = {f.name: value for f in decide if (value := getattr(config, f.name)) != f.default}
    if isinstance(config, JobConfig):
        facts["stage"] = config.stage
    else:
        facts.pop("seeds", None)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def _first(folder: str, count: int | None) -> tuple[str, ...]:
    """The folder; or the first `count` of its images."""
    if count is None:
        return (folder,)
    if chosen := first_of(folder, count):
        return (chosen,)
    place = Path(locate(folder))
    return tuple(str(Path(folder) / path.relative_to(place)) for path in picture_files(place)[:count])
