"""What the buttons, dials and cells of Mix do. Each answer is a value an output, then the tab's line of text."""

import re
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...config.presets import PRESETS
from ...core.errors import UserError
from . import cells, html, sheet, teach
from .cells import Shot
from .events import acted
from .sheet import Look, Sheet
from .studio import Studio

Chosen = tuple[list, list, str | None]  # contents, styles, a LoRA: what stands in the three lists


class Mixing:
    """The answers, to what stands in the form: what is chosen, both dials, and the look (`read_look`)."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.project = studio, studio.project

    def choices(self, contents: list, styles: list, lora: str | None) -> tuple:
        """What is trained by now; the newest of either kind is chosen where nothing was."""
        known = {kind: self.studio.ready(kind) for kind in ("content", "style", "lora")}
        values = {kind: {ident for _, ident in some} for kind, some in known.items()}
        kept = {
            kind: [ident for ident in before or () if ident in values[kind]]
            or [ident for _, ident in known[kind][:1]]
            for kind, before in (("content", contents), ("style", styles))
        }
        lora = lora if lora in values["lora"] else None
        return (
            gr.update(choices=known["content"], value=kept["content"]),
            gr.update(choices=known["style"], value=kept["style"]),
            gr.update(choices=[("none", ""), *known["lora"]], value=lora),
            "",
        )

    def pairs(
        self, contents: list, styles: list, lora: str, content: float, style: float, *look: Any
    ) -> Iterator[tuple]:
        """Every content in every style."""
        some = self.studio.chosen(contents), self.studio.chosen(styles)
        yield from self._draw(sheet.grid(self.project, *some, read_look(*look), (content, style)))

    def strengths(
        self, contents: list, styles: list, lora: str, content: float, style: float, *look: Any
    ) -> Iterator[tuple]:
        """One pair at every pair of strengths."""
        found: list[Any] = [next(iter(self.studio.chosen(some)), None) for some in (contents, styles, lora)]
        yield from self._draw(sheet.strengths(self.project, read_look(*look), found[0], found[1], found[2]))

    def lines(
        self, contents: list, styles: list, lora: str, content: float, style: float, *look: Any
    ) -> Iterator[tuple]:
        """Every prompt with every seed."""
        read = read_look(*look)
        base = self._first((contents, styles, lora), read, (content, style))
        some = [line.strip() for line in str(look[0] or "").splitlines() if line.strip()] or [base.prompt]
        yield from self._draw(sheet.prompts(self.project, read, some, base))

    def turn(
        self, contents: list, styles: list, lora: str, content: float, style: float, *look: Any
    ) -> tuple:
        """One image, as the dials stand."""
        shot = self._first((contents, styles, lora), read_look(*look), (content, style))
        cells.check(self.project, [shot])
        name = self.studio.redrawn(shot)
        return (*self._show(shot, name), name, "")

    def open_cell(self, event: gr.EventData) -> tuple:
        """The image of a cell, and the dials as it was drawn."""
        act, name = acted(event)
        if act != "open":
            return (*[gr.skip()] * 6, "")
        shot = cells.read_back(self.project, name)
        dials = (shot.settings.get(f"{kind}_strength", "1") for kind in ("content", "style"))
        return (*self._show(shot, name), name, *(float(dial) for dial in dials), "")

    def pin(self, name: str | None) -> tuple:
        """Keep the open image for Compare, beside the one that was pinned before."""
        if not name:
            raise UserError("no image is open: turn a dial, or open a cell first")
        before = (self.project.drafts().get("pinned") or {}).get("cells", [])
        kept = [*(other for other in before if other != name), name][-2:]
        self.project.save_draft("pinned", {"cells": kept})
        return (html.note("Pinned: the last two are side by side on Compare.", "good"),)

    def second(self, contents: list, styles: list) -> tuple:
        """Queue a second stage of the first content and the first style."""
        found = [self.studio.chosen(some)[:1] for some in (contents, styles)]
        if not all(found):
            raise UserError("a pair is needed: choose a content and a style")
        count = PRESETS[self.project.base.preset]["second"]["steps"]
        made = teach.begin_second(self.project, found[0][0].ident, found[1][0].ident, count)
        self.studio.runner.turn()
        told = f"{made.name} is in the queue: watch it on Teach, then choose it on the left."
        return (html.note(told, "good"),)

    def _first(self, chosen: Chosen, look: Look, dials: tuple[float, float]) -> Shot:
        """The first of what is chosen, with the first seed. Raises UserError."""
        content, style, fused = (next(iter(self.studio.chosen(some)), None) for some in chosen)
        if content is style is fused:
            raise UserError("nothing is chosen: choose a content, a style, or both")
        return sheet.shot_of(self.project, look, look.seeds[0], content, style, fused, dials)

    def _draw(self, made: Sheet) -> Iterator[tuple]:
        """The sheet, filled cell by cell. Raises UserError."""
        cells.check(self.project, made.shots)
        left = cells.missing(self.project, made.shots)
        for number, (name, shot) in enumerate(left):
            told = html.note(f"Drawing {number + 1} of {len(left)} ...", "busy")
            yield html.sheet_table(self.project, made), told
            self.studio.worker.draw(name, shot)
        count = len(made.shots)
        told = f"{count} images, {count - len(left)} of them drawn before. Click one to open it."
        yield html.sheet_table(self.project, made), html.note(told, "good")

    def _show(self, shot: Shot, name: str) -> tuple:
        """The image, its settings, the command that draws it."""
        return (
            html.big(name, shot.prompt),
            html.table(cells.facts(self.project, shot)),
            cells.shown_command(self.project, shot),
        )


def read_look(
    prompts: str,
    seeds: str,
    size: float,
    steps: float,
    guidance: float,
    negative: str,
    against_base: bool,
    summed: bool,
) -> Look:
    """From the form. Raises UserError."""
    lines = [line.strip() for line in str(prompts or "").splitlines() if line.strip()]
    numbers = read_seeds(str(seeds or ""))
    if None in (size, steps, guidance):
        raise UserError("size, steps and guidance are numbers: fill them in")
    return Look(
        lines[0] if lines else "",
        numbers,
        int(steps),
        float(guidance),
        int(size),
        str(negative or "").strip(),
        bool(against_base),
        bool(summed),
    )


def read_seeds(text: str) -> tuple[int, ...]:
    """ "1 2 7-9" -> (1, 2, 7, 8, 9). Raises UserError."""
    found: list[int] = []
    for word in re.split(r"[\s,;]+", text.strip()):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", word)
        if match is None:
            raise UserError(f"seeds {word[:20]!r}: numbers such as 77, or a range such as 1-4")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= last - first < sheet.MOST:
            raise UserError(f"seeds {word}: at most {sheet.MOST}, the smaller number first")
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))
