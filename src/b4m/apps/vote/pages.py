"""The pages as HTML: templates filled in, all that comes from elsewhere as text."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from string import ascii_uppercase

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .questions import WORDINGS, Option, Question, Study

FOLDER = Path(__file__).parent / "page"
STATIC = {
    "vote.css": "text/css; charset=utf-8",
    "vote.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
AGES = ("under 18", "18 to 29", "30 to 44", "45 to 59", "60 or older")
EXPERTISE = (
    "I do not make images",
    "I make or edit images now and then",
    "I am an artist or a designer",
    "I do research in graphics or vision",
)
PARTS = {
    "alignment": "Alignment",
    "success": "Success",
    "consistency": "Consistency",
}


@cache
def _templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,  # of every value, whatever it looks like
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def static(name: str) -> bytes:
    """A file of STATIC."""
    return (FOLDER / name).read_bytes()


def welcome(study: Study, password: bool, problem: str = "") -> str:
    """What a newcomer sees: consent, two optional questions, and the password where one is asked for."""
    paragraphs = [text.strip() for text in study.consent.split("\n\n") if text.strip()]
    return _page(
        "welcome.html",
        study,
        paragraphs=paragraphs,
        ages=AGES,
        expertise=EXPERTISE,
        password=password,
        problem=problem,
    )


def question(study: Study, asked: Question, options: Sequence[Option], done: int) -> str:
    """One question, its options in the order given. No method is named."""
    shown = [(ascii_uppercase[i], option.images) for i, option in enumerate(options)]
    return _page(
        "question.html",
        study,
        question=asked,
        wording=WORDINGS[asked.asked],
        part=PARTS[asked.study],
        options=shown,
        sets=len(options[0].images) > 1,
        across=round(len(options[0].images) ** 0.5),
        done=done,
    )


def message(study: Study, title: str, *paragraphs: str, go_on: bool = False, link: str = "") -> str:
    """A few words, and a way on. link: shown as text to copy."""
    return _page("message.html", study, heading=title, paragraphs=paragraphs, go_on=go_on, link=link)


def _page(template: str, study: Study, **values: object) -> str:
    return _templates().get_template(template).render(study=study, **values)
