"""A study as it is asked: its questions, its images by meaningless names, in one JSON file that voters never see."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.storage import reason
from .settings import STUDIES

FILE, IMAGES, VOTES, LINKS = "vote.json", "images", "votes.sqlite", "links.txt"  # in a study's folder
FORMAT = 1
CHECK = "check"


@dataclass(frozen=True)
class Wording:
    """What a voter reads above the choices."""

    question: str
    hint: str


WORDINGS = {  # what is asked: how
    "content": Wording(
        "Which image comes closest to the content reference?",
        "The same subject: its shape, its parts, its marks. Do not mind the style.",
    ),
    "style": Wording(
        "Which image comes closest to the style reference?",
        "The same look: lines, colours, material. Do not mind the subject.",
    ),
    "both": Wording(
        "Which image comes closest to both references?",
        "The subject of the content reference, in the look of the style reference.",
    ),
    "success": Wording(
        "Which set holds more images that succeed?",
        "An image succeeds if it shows the subject of the content reference in the look of the style reference.",
    ),
    "consistency": Wording(
        "Which set is more consistent?",
        "Consistent: the same subject and the same look from image to image, and those of the references.",
    ),
    CHECK: Wording(
        "Please choose the image that is the content reference itself.",
        "One of the images below is the very image shown above as the content reference.",
    ),
}
ASKED = {"alignment": ("content", "style", "both"), "success": ("success",), "consistency": ("consistency",)}


@dataclass(frozen=True)
class Option:
    """One choice: a method's image, or its set of images."""

    method: str
    images: tuple[str, ...]  # names of images


@dataclass(frozen=True)
class Question:
    """One thing to decide. A voter's page shows everything but `pair` and the methods' names."""

    id: str
    study: str  # one of STUDIES
    asked: str  # one of WORDINGS
    pair: str
    prompt: str
    content: tuple[str, ...]  # names of reference images
    style: tuple[str, ...]
    options: tuple[Option, ...]
    right: str | None = None  # of an attention check: the method whose option it is

    @property
    def methods(self) -> tuple[str, ...]:
        return tuple(option.method for option in self.options)

    @property
    def images(self) -> tuple[str, ...]:
        """Every image that its page shows."""
        return (*self.content, *self.style, *(name for option in self.options for name in option.images))


@dataclass(frozen=True)
class Study:
    """Everything that decides what is asked. `key` makes orders that nobody outside can foretell."""

    title: str
    consent: str
    key: str
    ours: str
    methods: tuple[str, ...]
    votes: int  # questions of each study for one voter
    checks: int
    questions: tuple[Question, ...]
    images: Mapping[str, str]  # name: sha256 of the file

    def of(self, study: str, check: bool) -> list[Question]:
        """The questions, or the attention checks, of one of STUDIES."""
        return [q for q in self.questions if q.study == study and (q.asked == CHECK) == check]

    @property
    def studies(self) -> tuple[str, ...]:
        return tuple(name for name in STUDIES if self.of(name, check=False))

    @property
    def length(self) -> int:
        """Questions that one voter is asked."""
        return sum(min(self.votes, len(self.of(name, False))) + self.checks for name in self.studies)


def to_json(study: Study) -> str:
    """What FILE holds."""
    return json.dumps({"format": FORMAT, **asdict(study)}, indent=1, ensure_ascii=False) + "\n"


def read_study(folder: Path | str) -> Study:
    """The study in a folder. Raises UserError for one that is not there, or not whole."""
    path = Path(folder) / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({reason(error)}); make a study with b4m vote make"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({reason(error)}); make the study again") from error
    try:
        study = _study(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a study of b4m vote ({reason(error)}); make it again") from error
    shown = {name for question in study.questions for name in question.images}
    if odd := sorted(shown - set(study.images)) or [name for name in study.images if not name.isalnum()]:
        raise UserError(f"{path}: image {odd[0]!r} is none of this study's; make the study again")
    return study


def _study(values: dict[str, Any]) -> Study:
    if values.pop("format") != FORMAT:
        raise ValueError(f"format {FORMAT} expected")
    values["questions"] = tuple(_question(entry) for entry in values["questions"])
    values["methods"] = tuple(values["methods"])
    return Study(**{f.name: values[f.name] for f in fields(Study)})


def _question(entry: dict[str, Any]) -> Question:
    options = tuple(Option(option["method"], tuple(option["images"])) for option in entry["options"])
    lists = {name: tuple(entry[name]) for name in ("content", "style")}
    given: dict[str, Any] = {**entry, **lists, "options": options}
    question = Question(**given)
    if question.study not in STUDIES or question.asked not in WORDINGS:
        raise ValueError(f"question {question.id}: {question.study}, {question.asked}")
    return question
