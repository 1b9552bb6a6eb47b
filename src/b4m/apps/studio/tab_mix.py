"""Mix: every content in every style; one pair with two dials, and the sheet of their strengths."""

from typing import Any

import gradio as gr

from . import html, sheet
from .events import Wiring, piece
from .mixing import Mixing
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
            self.size = gr.Number(usual.size, label="Size in pixels", precision=0, minimum=8, maximum=8192)
            self.steps = gr.Number(usual.steps, label="Denoising steps", precision=0, minimum=1, maximum=1000)
            self.guidance = gr.Number(usual.guidance, label="Guidance", minimum=0, maximum=1000)
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


def _wire(studio: Studio, blocks: gr.Blocks, tab: gr.Tab, ask: _Ask, table: gr.HTML, one: _One) -> None:
    wiring, mixing, shown = Wiring(studio, ask.status), Mixing(studio), gr.State(None)
    everything = [*ask.chosen, one.content, one.style, *ask.look]
    wiring.on([blocks.load, tab.select], mixing.choices, ask.chosen, ask.chosen)
    sheets = ((ask.pairs, mixing.pairs), (ask.strengths, mixing.strengths), (ask.lines, mixing.lines))
    drawn = [wiring.on(button.click, answer, everything, [table]) for button, answer in sheets]
    ask.stop.click(
        lambda: html.note("Stopped after this image; what was drawn stays.", "note"),
        None, ask.status, cancels=drawn, show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    turned = [one.content.release, one.style.release, one.content.input, one.style.input]
    wiring.on(turned, mixing.turn, everything, [*one.shown, shown], trigger_mode="always_last")
    wiring.on(table.click, mixing.open_cell, [], [*one.shown, shown, one.content, one.style])
    wiring.on(one.pin.click, mixing.pin, [shown])
    wiring.on(one.second.click, mixing.second, [ask.contents, ask.styles])
