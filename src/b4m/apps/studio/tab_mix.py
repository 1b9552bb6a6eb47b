"""Mix: every content in every style; one pair with two dials, and the sheet of their strengths."""

import re
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...config.presets import PRESETS
from ...core.errors import UserError
from . import cells, html, sheet, teach
from .cells import Shot
from .events import Wiring, acted, piece
from .sheet import Look, Sheet
from .studio import Studio


def build(studio: Studio, blocks: gr.Blocks) -> None:
    with gr.Tab("Mix", id="mix") as tab:
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                ask = _Ask(studio)
            with gr.Column(scale=6, min_width=320):
                table = piece(
                    html.empty(
                        "No sheet yet",
                        "Choose a content and a style on the left, then press Draw every pair; or turn a dial on the "
                        "right. What is still being taught is offered once it is done and this tab is opened again.",
                    ),
                    elem_id="sheet",
                )
            with gr.Column(scale=4, min_width=280):
                one = _One()
        _wire(studio, blocks, tab, ask, table, one)  # inside: all that stands in Tabs counts as a tab there


class _Ask:
    """What to draw."""

    def __init__(self, studio: Studio) -> None:
        defaults = {**PRESETS["sdxl"]["generate"], **PRESETS[studio.project.base.preset]["generate"]}
        usual = sheet.usual(studio.project)
        self.contents = gr.Dropdown([], multiselect=True, label="Contents", elem_id="contents")
        self.styles = gr.Dropdown([], multiselect=True, label="Styles", elem_id="styles")
        # What most people press first, on the first screen.
        with gr.Row():
            self.pairs = gr.Button("Draw every pair", variant="primary", min_width=120, elem_id="draw-pairs")
            self.strengths = gr.Button("Strength sheet", min_width=120, elem_id="draw-strengths")
        self.stop = gr.Button("Stop drawing", size="sm", elem_id="stop-drawing")
        self.status = gr.HTML(apply_default_css=False, elem_id="mix-status")
        self.lora = gr.Dropdown([], label="Or a fused or foreign LoRA", elem_id="lora")
        self.prompts = gr.Textbox(
            label="Prompts", lines=2, info="one a line; empty: the one that calls the pair", elem_id="prompts"
        )
        self.seeds = gr.Textbox(
            label="Seeds", value="77", info="numbers, or a range such as 1-4", elem_id="seeds"
        )
        with gr.Accordion("Size, steps, guidance", open=False):
            self.size = gr.Number(
                defaults["size"], label="Size in pixels", precision=0, minimum=8, maximum=8192
            )
            self.steps = gr.Number(25, label="Denoising steps", precision=0, minimum=1, maximum=1000)
            self.guidance = gr.Number(
                usual.guidance or defaults.get("guidance", 5.0), label="Guidance", minimum=0, maximum=1000
            )
            self.negative = gr.Textbox(label="Negative prompt")
            self.against_base = gr.Checkbox(
                usual.against_base,
                label="Guided against the base model",
                info="content and style come out stronger; an exported file cannot carry it",
                elem_id="against-base",
            )
            self.summed = gr.Checkbox(
                usual.summed,
                label="A pair without a second stage as a sum of predictions",
                info="a little closer to both, for twice the time; an exported file cannot carry it",
                elem_id="summed",
            )
        self.lines = gr.Button("Draw prompts by seeds", elem_id="draw-prompts")

    @property
    def look(self) -> list[Any]:
        said = [self.prompts, self.seeds, self.size, self.steps, self.guidance, self.negative]
        return [*said, self.against_base, self.summed]

    @property
    def chosen(self) -> list[Any]:
        return [self.contents, self.styles, self.lora]


class _One:
    """One image, with its dials."""

    def __init__(self) -> None:
        self.content = gr.Slider(0, 2, 1, step=0.05, label="Content", elem_id="content-dial")
        self.style = gr.Slider(0, 2, 1, step=0.05, label="Style", elem_id="style-dial")
        self.image = gr.HTML(
            html.empty("One pair", "Turn a dial, or open a cell of a sheet."),
            apply_default_css=False,
            elem_id="one",
        )
        with gr.Row():
            self.pin = gr.Button("Pin for Compare", size="sm", elem_id="pin")
            self.second = gr.Button("Second stage", size="sm", elem_id="second")
        with gr.Accordion("Settings and command", open=False):
            self.facts = gr.HTML(apply_default_css=False)
            self.command = gr.Textbox(
                show_label=False,
                label="command",
                lines=6,
                buttons=["copy"],
                interactive=False,
                elem_id="redraw",
            )

    @property
    def shown(self) -> list[Any]:
        return [self.image, self.facts, self.command]


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


def _wire(studio: Studio, blocks: gr.Blocks, tab: gr.Tab, ask: _Ask, table: gr.HTML, one: _One) -> None:
    project, wiring, shown = studio.project, Wiring(studio, ask.status), gr.State(None)

    def choices(contents: list, styles: list, lora: str | None) -> tuple:
        """What is trained by now; the newest of either kind is chosen where nothing was."""
        known = {kind: studio.ready(kind) for kind in ("content", "style", "lora")}
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

    def first(contents: list, styles: list, lora: str | None, look: Look, dials: tuple[float, float]) -> Shot:
        found = [studio.chosen(some)[:1] or [None] for some in (contents, styles, lora)]
        (content,), (style,), (fused,) = found
        if content is style is fused:
            raise UserError("nothing is chosen: choose a content, a style, or both")
        return sheet.shot_of(project, look, look.seeds[0], content, style, fused, dials)

    def draw(made: Sheet) -> Iterator[tuple]:
        """The sheet, filled cell by cell."""
        cells.check(project, made.shots)
        left = cells.missing(project, made.shots)
        for number, (name, shot) in enumerate(left):
            told = html.note(f"Drawing {number + 1} of {len(left)} ...", "busy")
            yield html.sheet_table(project, made), told
            studio.worker.draw(name, shot)
        count = len(made.shots)
        told = f"{count} images, {count - len(left)} of them drawn before. Click one to open it."
        yield html.sheet_table(project, made), html.note(told, "good")

    def pairs(contents: list, styles: list, lora: str, content: float, style: float, *look: Any):
        some = studio.chosen(contents), studio.chosen(styles)
        yield from draw(sheet.grid(project, *some, read_look(*look), (content, style)))

    def strengths(contents: list, styles: list, lora: str, content: float, style: float, *look: Any):
        found: list[Any] = [next(iter(studio.chosen(some)), None) for some in (contents, styles, lora)]
        yield from draw(sheet.strengths(project, read_look(*look), found[0], found[1], found[2]))

    def lines(contents: list, styles: list, lora: str, content: float, style: float, *look: Any):
        read = read_look(*look)
        base = first(contents, styles, lora, read, (content, style))
        some = [line.strip() for line in str(look[0] or "").splitlines() if line.strip()] or [base.prompt]
        yield from draw(sheet.prompts(project, read, some, base))

    def show(shot: Shot, name: str) -> tuple:
        return (
            html.big(name, shot.prompt),
            html.table(cells.facts(project, shot)),
            cells.shown_command(project, shot),
        )

    def turn(contents: list, styles: list, lora: str, content: float, style: float, *look: Any) -> tuple:
        shot = first(contents, styles, lora, read_look(*look), (content, style))
        cells.check(project, [shot])
        name = studio.redrawn(shot)
        return (*show(shot, name), name, "")

    def open_cell(event: gr.EventData) -> tuple:
        act, name = acted(event)
        if act != "open":
            return (*[gr.skip()] * 6, "")
        shot = cells.read_back(project, name)
        dials = (shot.settings.get(f"{kind}_strength", "1") for kind in ("content", "style"))
        return (*show(shot, name), name, *(float(dial) for dial in dials), "")

    def pin(name: str | None) -> tuple:
        if not name:
            raise UserError("no image is open: turn a dial, or open a cell first")
        before = (project.drafts().get("pinned") or {}).get("cells", [])
        project.save_draft("pinned", {"cells": [*(other for other in before if other != name), name][-2:]})
        return (html.note("Pinned: the last two are side by side on Compare.", "good"),)

    def second(contents: list, styles: list) -> tuple:
        found = [studio.chosen(some)[:1] for some in (contents, styles)]
        if not all(found):
            raise UserError("a pair is needed: choose a content and a style")
        count = PRESETS[project.base.preset]["second"]["steps"]
        made = teach.begin_second(project, found[0][0].ident, found[1][0].ident, count)
        studio.runner.turn()
        return (
            html.note(f"{made.name} is in the queue: watch it on Teach, then choose it on the left.", "good"),
        )

    everything = [*ask.chosen, one.content, one.style, *ask.look]
    wiring.on([blocks.load, tab.select], choices, ask.chosen, ask.chosen)
    drawn = [
        wiring.on(button.click, function, everything, [table])
        for button, function in ((ask.pairs, pairs), (ask.strengths, strengths), (ask.lines, lines))
    ]
    ask.stop.click(
        lambda: html.note("Stopped after this image; what was drawn stays.", "note"),
        None, ask.status, cancels=drawn, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    turned = [one.content.release, one.style.release, one.content.input, one.style.input]
    wiring.on(turned, turn, everything, [*one.shown, shown], trigger_mode="always_last")
    wiring.on(table.click, open_cell, [], [*one.shown, shown, one.content, one.style])
    wiring.on(one.pin.click, pin, [shown])
    wiring.on(one.second.click, second, [ask.contents, ask.styles])
