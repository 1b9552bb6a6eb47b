"""A study as it is written down: rows, pairs, prompts, seeds and settings, from a YAML file."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..config.fields import check, flag, read_yaml, setting
from ..core.errors import UserError
from ..core.where import matches
from ..data.dataset import called
from ..evaluation.settings import EvaluateConfig
from ..methods.registry import method

# Of a study's settings: what it is done on.
SHOWN = (
    "preset",
    "contents",
    "styles",
    "partner_styles",
    "partner_contents",
    "classes",
    "prompts",
    "seeds",
    "labels",
    "leaks",
)


@dataclass(frozen=True)
class Row:
    """One line of a study's table: a method, and the settings in which it differs from the study's."""

    method: str = setting("the registered method", "b4m")
    train: dict[str, Any] = setting("settings of the trainings of concepts", {})
    second: dict[str, Any] = setting("settings of the second stage", {})
    merge: dict[str, Any] = setting("settings of what puts two trained files together", {})
    generate: dict[str, Any] = setting("settings of the images: steps, guidance, dials", {})
    content_pictures: int | None = setting("use the first so many images of a content", None, low=1)
    style_pictures: int | None = setting("use the first so many images of a style", None, low=1)
    partners: int | None = setting("use the first so many partners", None, low=1)
    dials: tuple[Any, ...] = setting(
        "positions of the dials, [content strength, style strength] each; the row is then a row for every one",
        (),
    )
    curve: str | None = setting(
        "rows of one curve are joined in the picture of the frontier (default: of rows from dials, the row's name)",
        None,
    )

    def __post_init__(self) -> None:
        check(self)
        method(self.method)
        for position in self.dials:
            if not is_position(position):
                raise UserError(
                    f"dials: {position!r}; expected [content strength, style strength], as in [1, 0.7]"
                )
        if turned := {"content_strength", "style_strength"} & self.generate.keys() if self.dials else ():
            raise UserError(
                f"generate: {min(turned)}: a row with dials says its strengths there; take one away"
            )

    def at_dials(self, name: str) -> dict[str, "Row"]:
        """Itself as `name`; or a row for every position of the dials, all of one curve."""
        if not self.dials:
            return {name: self}
        rows: dict[str, Row] = {}
        for content, style in dict.fromkeys(map(tuple, self.dials)):
            turned = {**self.generate, "content_strength": content, "style_strength": style}
            rows[f"{name}, content {content:g}, style {style:g}"] = replace(
                self, dials=(), generate=turned, curve=self.curve or name
            )
        return rows


def _turned(written: dict[str, Row]) -> dict[str, Row]:
    """All rows, those with dials at each of their positions. Raises UserError for two of one name."""
    rows: dict[str, Row] = {}
    for written_name, row in written.items():
        for name, turned in row.at_dials(written_name).items():
            if name in rows:
                raise UserError(f"row {written_name!r}: {name!r} is a row already; take one of them away")
            rows[name] = turned
    return rows


def is_position(value: Any) -> bool:
    """Whether it is [content strength, style strength]."""
    pair = value if isinstance(value, list | tuple) else ()
    return len(pair) == 2 and all(type(each) in (int, float) for each in pair)


@dataclass(frozen=True)
class Study:
    """Contents x styles x training seeds x prompts x seeds, under every row. Raises UserError."""

    title: str = setting("what the study asks")
    rows: dict[str, Any] = setting(
        "the table's rows by name: what each changes; the first one is the baseline"
    )
    contents: tuple[str, ...] = setting("a folder of reference images, or a data set, for each content")
    styles: tuple[str, ...] = setting("a folder of reference images, or a data set, for each style")
    prompts: tuple[str, ...] = setting("what to draw; {content} and {style} stand for the pair's words")
    partner_styles: tuple[str, ...] = setting("partners of the contents: diverse styles", ())
    partner_contents: tuple[str, ...] = setting("partners of the styles: diverse contents", ())
    classes: dict[str, str] = setting("plain words for a folder's name (default: the name itself)", {})
    seeds: tuple[int, ...] = setting("seeds of the images, each with every prompt", (0, 1))
    training_seeds: tuple[int, ...] = setting("every training is done once with each of these seeds", (0,))
    preset: str = setting("settings to start from", "embedded")
    settings: dict[str, Any] = setting("settings of all trainings: base_model, mixed_precision, ...", {})
    train: dict[str, Any] = setting("settings of the trainings of concepts", {})
    second: dict[str, Any] = setting("settings of all second stages", {})
    merge: dict[str, Any] = setting("settings of all that puts two trained files together", {})
    generate: dict[str, Any] = setting("settings of all pictures", {})
    evaluate: dict[str, Any] = setting("extractors and classifiers (default: the preset's)", {})
    labels: dict[str, Any] = setting(
        "what each classifier should say: text with {content} and {style}, a list with a word for every prompt, "
        "or a word for every content by its name",
        {},
    )
    leaks: dict[str, Any] = setting(
        "what a classifier should not say: names by classifier, or for every content by its name", {}
    )
    seconds: dict[str, float] = setting("measured cost of each stage and image, for the dry run", {})

    def __post_init__(self) -> None:
        check(self)
        for name in ("contents", "styles", "partner_styles", "partner_contents"):
            object.__setattr__(self, name, _expand(name, getattr(self, name)))
        named = {"rows": self.rows, "contents": self.contents, "styles": self.styles, "prompts": self.prompts}
        for name, value in named.items():
            if not value:
                raise UserError(f"{name}: empty; a study needs at least one")
        written = {name: build(Row, row or {}, f"row {name!r}") for name, row in self.rows.items()}
        object.__setattr__(self, "rows", _turned(written))
        if clash := sorted(self.curves.keys() & {name for name, row in self.rows.items() if not row.curve}):
            raise UserError(
                f"row {clash[0]!r}: a curve of other rows is called so; name the row or the curve otherwise"
            )
        # Read when all is drawn: what is wrong with them should not wait that long.
        build(EvaluateConfig, {**self.evaluate, "pictures": "."}, "evaluate")
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

    @property
    def curves(self) -> dict[str, list[str]]:
        """Rows that are joined in the picture of the frontier, by the name of their curve; empty without any."""
        found: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            if row.curve:
                found.setdefault(row.curve, []).append(name)
        return found

    def word(self, folder: str) -> str:
        """The plain word of a reference folder or a data set."""
        name = called(folder)
        return self.classes.get(name, name.replace("_", " "))

    def words(self, content: str, style: str) -> dict[str, str]:
        """What fills a prompt's {content} and {style}, without trigger words."""
        return {"content": self.word(content), "style": self.word(style)}

    def labels_of(self, content: str, style: str, prompt: int) -> dict[str, str]:
        """What the classifiers should say of an image drawn from prompt number `prompt`."""
        words = self.words(content, style)

        def said(label: str | list | dict) -> str:
            if isinstance(label, dict):
                return label[words["content"]]
            return label.format(**words) if isinstance(label, str) else label[prompt]

        return {judge: said(label) for judge, label in self.labels.items()}

    def leaks_of(self, content: str) -> dict[str, tuple[str, ...]]:
        """What the classifiers should not say of an image of `content`."""
        return {
            judge: tuple(names[self.word(content)] if isinstance(names, dict) else names)
            for judge, names in self.leaks.items()
        }


def _expand(name: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """Each pattern as the folders or files that it matches, sorted."""
    found: list[str] = []
    for path in paths:
        named = matches(path) if "*" in path else [path]
        if not named:
            raise UserError(f"{name}: nothing matches {path}; put a folder of images there for each")
        found += named
    return tuple(found)


def read_study(path: Path | str, subjects: str | None = None) -> Study:
    """The study in a YAML file, on its own subjects or on those in another file. Raises UserError."""
    return build(Study, read_values(path, subjects), str(path))


def read_values(path: Path | str, subjects: str | None = None) -> dict[str, Any]:
    """The settings in a YAML file over those of the subjects that it names. Raises UserError.

    subjects: a file to take them from instead: what it says of `SHOWN` then goes before what the study says.
    """
    values = read_yaml(path)
    own = values.pop("subjects", None)
    if own is not None and not isinstance(own, str):
        raise UserError(f"{path}: subjects {own!r}: expected the name of a YAML file")
    if subjects is None:
        return {**(read_yaml(own) if own else {}), **values}
    others = read_yaml(subjects)
    return {**others, **values, **{name: others[name] for name in SHOWN if name in others}}


def build(cls: type, values: Any, where: str) -> Any:
    """Settings of class `cls` from what stands in a file. Raises UserError, led by `where`."""
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
