"""What a sheet shows: every content in every style, or one pair at every pair of strengths; labelled rows of shots."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...config.resolve import resolve
from ...config.sampling import DrawnWith
from ...core.errors import UserError
from . import library
from .cells import Shot
from .library import Concept
from .project import Project

STRENGTHS = (0.0, 0.5, 1.0, 1.5)
MOST = 400  # cells of one sheet


@dataclass(frozen=True)
class Sheet:
    """Rows of shots. A place without one says why."""

    title: str
    across: str  # what the columns are
    down: str  # what the rows are
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    places: tuple[tuple[Shot | str, ...], ...] = field(default=())

    @property
    def shots(self) -> list[Shot]:
        return [place for row in self.places for place in row if isinstance(place, Shot)]


@dataclass(frozen=True)
class Look:
    """What a sheet is drawn with, beside its files and dials."""

    prompt: str = ""  # empty: the one that calls the pair
    seeds: tuple[int, ...] = (77,)
    steps: int | None = None
    guidance: float | None = None
    size: int | None = None
    negative_prompt: str = ""
    against_base: bool = False  # what guidance leads away from; else the model with the files on it
    summed: bool = False  # a pair as a sum of predictions

    def settings(self) -> dict[str, Any]:
        given: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance, "size": self.size}
        given["negative_prompt"] = self.negative_prompt or None
        return {name: value for name, value in given.items() if value is not None}


def usual(project: Project) -> Look:
    """What images are drawn with unless it is said otherwise."""
    preset = resolve(DrawnWith, project.base.preset)
    look = Look(steps=preset.steps, guidance=preset.guidance, size=preset.size)
    if project.base.preset != "embedded":
        return look
    # At 2 a sum has 0.011 of the average more than at the preset's 2.5 [0.003, 0.021] and keeps its colours, and a
    # second stage has no less (the tuning set, 64 images).
    return replace(look, guidance=2.0, against_base=True, summed=True)


def pair_prompt(content: Concept | None, style: Concept | None) -> str:
    """As training's captions say it, "a photo of snq teddybear" or "a picture in w@z yarn art style"; of both "snq
    teddybear in w@z yarn art style", as the word photo asks for what is no yarn, and the embedded base obeys it."""
    if content and style:
        return f"{content.words} in {style.words} style"
    if content:
        return f"a photo of {content.words}"
    return f"a picture in {style.words} style" if style else "a picture"


def shot_of(
    project: Project,
    look: Look,
    seed: int,
    content: Concept | None,
    style: Concept | None,
    lora: Concept | None = None,
    dials: tuple[float, float] = (1.0, 1.0),
) -> Shot:
    """One image of a pair, of one of the two, of a LoRA, or of the base model. Raises UserError."""
    if lora is not None:
        files = library.role_files(project, {"lora": lora.ident})
        dials = dials if lora.two_dials else (dials[0], dials[0])
        prompt = look.prompt or _lora_prompt(project, lora)
    else:
        chosen = {role: one.ident if one else None for role, one in (("content", content), ("style", style))}
        files = library.role_files(project, chosen)
        prompt = look.prompt or pair_prompt(content, style)
    settings = {**look.settings(), **files}
    if look.summed and content and style and lora is None:
        settings["compose"] = "predictions"
    if files:
        settings["negative"] = "base" if look.against_base else "adapted"
        settings |= {"content_strength": dials[0], "style_strength": dials[1]}
    return Shot(prompt, seed, settings)


def grid(
    project: Project,
    contents: Sequence[Concept],
    styles: Sequence[Concept],
    look: Look,
    dials: tuple[float, float] = (1.0, 1.0),
) -> Sheet:
    """Every content (down) in every style (across), the first row and column without the other. Raises UserError."""
    if not contents and not styles:
        raise UserError("nothing is chosen: choose contents, styles, or both")
    seed = look.seeds[0]
    rows: list[Concept | None] = [None, *contents]
    columns: list[Concept | None] = [None, *styles]
    _check_size(len(rows) * len(columns))
    places = []
    for content in rows:
        row: list[Shot | str] = []
        for style in columns:
            told = _clash(project, content, style)
            row.append(told or shot_of(project, look, seed, content, style, dials=dials))
        places.append(tuple(row))
    return Sheet(
        "Every content in every style",
        "style",
        "content",
        ("no style", *(style.name for style in styles)),
        ("no content", *(content.name for content in contents)),
        tuple(places),
    )


def strengths(
    project: Project,
    look: Look,
    content: Concept | None,
    style: Concept | None,
    lora: Concept | None = None,
    values: Sequence[float] = STRENGTHS,
) -> Sheet:
    """Content strength (down) by style strength (across), a first row without any adapter. Raises UserError."""
    if lora is None and (content is None or style is None):
        raise UserError("a pair is needed: choose a content and a style, or a fused file")
    _check_size((len(values) + 1) * len(values))
    seed = look.seeds[0]
    bare = shot_of(project, look, seed, content, style, lora).bare()
    places: list[tuple[Shot | str, ...]] = [(bare, *("",) * (len(values) - 1))]
    alone = lora is not None and not lora.two_dials  # a LoRA from elsewhere has one strength: the diagonal
    for down in values:
        row = [
            ""
            if alone and across != down
            else shot_of(project, look, seed, content, style, lora, (down, across))
            for across in values
        ]
        places.append(tuple(row))
    return Sheet(
        "Content strength by style strength",
        "style strength",
        "content strength",
        tuple(f"{value:g}" for value in values),
        ("no adapter", *(f"{value:g}" for value in values)),
        tuple(places),
    )


def prompts(project: Project, look: Look, lines: Sequence[str], one: Shot) -> Sheet:
    """A list of prompts (down) with every seed (across), with the files and dials of `one`. Raises UserError."""
    _check_size(len(lines) * len(look.seeds))
    places = tuple(
        tuple(Shot(line, seed, {**one.settings, **look.settings()}) for seed in look.seeds) for line in lines
    )
    columns = tuple(str(seed) for seed in look.seeds)
    return Sheet("Prompts and seeds", "seed", "prompt", columns, tuple(lines), places)


def _check_size(count: int) -> None:
    if count > MOST:
        raise UserError(f"{count} images in one sheet, {MOST} are allowed: choose fewer")


def _clash(project: Project, content: Concept | None, style: Concept | None) -> str:
    """Why the two do not go together; empty where they do, or one is not there."""
    if content is None or style is None:
        return ""
    return library.differences(library.facts(project, content), library.facts(project, style))


def _lora_prompt(project: Project, lora: Concept) -> str:
    if lora.pair:
        known = {concept.ident: concept for concept in library.concepts(project)}
        content, style = (known.get(ident) for ident in lora.pair)
        if content and style:
            return pair_prompt(content, style)
    return f"a photo of {lora.words}" if lora.words else "a photo"
