"""A library as it is written down: contents, styles, partners, prompts, seeds and methods, from a YAML file."""

from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from ..config.fields import check, setting
from ..core.errors import UserError
from .file import Study, build, is_position, read_values

LEFT_OUT = ("rows", "training_seeds")  # of a study's settings: what a library says otherwise
DIALS = {"more content": [1.0, 0.7], "both": [1.0, 1.0], "more style": [0.7, 1.0]}


@dataclass(frozen=True)
class Own:
    """What a library says besides a study's contents, styles, partners, prompts, seeds and settings."""

    methods: tuple[str, ...] = setting(
        "registered methods; composed puts two concept files together as it draws", ("composed",)
    )
    dials: dict[str, Any] = setting(
        "positions of the dials by name: [content strength, style strength]", DIALS
    )
    training_seed: int = setting("seed of all trainings", 77, low=0, high=2**63 - 1)
    score: bool = setting("score the images", True)
    fused: bool = setting("also write each pair of concept files as one LoRA file, for other tools", False)

    def __post_init__(self) -> None:
        check(self)
        for name in ("methods", "dials"):
            if not getattr(self, name):
                raise UserError(f"{name}: empty; a library needs at least one")
        for name, strengths in self.dials.items():
            if not is_position(strengths):
                raise UserError(
                    f"dials: {name} is {strengths!r}; expected [content strength, style strength], as in [1, 0.7]"
                )


@dataclass(frozen=True)
class Library:
    """Every content in every style, drawn with every method at every position of the dials."""

    study: Study  # a row for each of `looks`
    looks: dict[str, tuple[str, str]]  # row -> method, position of the dials
    own: Own


def read_library(path: Path | str) -> Library:
    """The library in a YAML file. Raises UserError."""
    values, where = read_values(path), str(path)
    mine, theirs = ([f.name for f in fields(cls) if f.name not in LEFT_OUT] for cls in (Own, Study))
    if unknown := [key for key in values if key not in (*mine, *theirs)]:
        raise UserError(f"{where}: unknown setting {unknown[0]!r}; known: {', '.join((*theirs, *mine))}")
    own = build(Own, {key: value for key, value in values.items() if key in mine}, where)
    looks = {f"{method}, {dial}": (method, dial) for method, dial in product(own.methods, own.dials)}
    study = build(
        Study,
        {
            "title": Path(path).stem,
            **{key: value for key, value in values.items() if key in theirs},
            "rows": {row: _row(own, *look) for row, look in looks.items()},
            "training_seeds": [own.training_seed],
        },
        where,
    )
    if turned := {"content_strength", "style_strength"} & study.generate.keys():
        raise UserError(f"{where}: generate: {min(turned)}: a library says its strengths under dials")
    _check_told_apart(study, where)
    return Library(study, looks, own)


def _row(own: Own, method: str, dial: str) -> dict[str, Any]:
    content, style = own.dials[dial]
    return {"method": method, "generate": {"content_strength": content, "style_strength": style}}


def _check_told_apart(study: Study, where: str) -> None:
    """Raises UserError for two of one name: nobody could tell whose image is whose."""
    called: dict[str, list[Any]] = {
        "contents": [study.word(folder) for folder in study.contents],
        "styles": [study.word(folder) for folder in study.styles],
        "prompts": list(study.prompts),
        "seeds": list(study.seeds),
    }
    for name, words in called.items():
        if twice := [word for word in words if words.count(word) > 1]:
            what = "; give their folders other words under classes" if name in ("contents", "styles") else ""
            raise UserError(f"{where}: {name}: {twice[0]!r} stands there twice{what}")
