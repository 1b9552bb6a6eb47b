"""Compare: two ways to draw one prompt with one seed, or two pinned images, side by side or under a slider."""

from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.errors import UserError
from . import cells, html, library, sheet
from .cells import Shot
from .events import Wiring
from .sheet import Look
from .studio import Studio

WAYS = [
    ("base model alone", "base"),
    ("content alone", "content"),
    ("style alone", "style"),
    ("both, as a sum of predictions", "summed"),
    ("both, composed in the weights", "composed"),
    ("both, after the second stage", "second"),
]


def build(studio: Studio, blocks: gr.Blocks) -> None:
    project = studio.project
    with gr.Tab("Compare", id="compare") as tab:
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                content = gr.Dropdown([], label="Content", elem_id="compare-content")
                style = gr.Dropdown([], label="Style", elem_id="compare-style")
                left = gr.Dropdown(WAYS, value="base", label="Left", elem_id="compare-left")
                right = gr.Dropdown(WAYS, value="summed", label="Right", elem_id="compare-right")
                prompt = gr.Textbox(label="Prompt", info="empty: the one that calls the pair")
                seed = gr.Number(77, label="Seed", precision=0, minimum=0)
                view = gr.Radio(
                    [("side by side", "beside"), ("under a slider", "slider")], value="beside", label="Shown"
                )
                compare = gr.Button("Compare", variant="primary", elem_id="do-compare")
                pinned = gr.Button("Show the two that I pinned", elem_id="show-pinned")
                status = gr.HTML(apply_default_css=False, elem_id="compare-status")
            with gr.Column(scale=7, min_width=320):
                shown = gr.HTML(
                    html.empty("Nothing compared yet", "Choose two ways to draw, or pin two images on Mix."),
                    apply_default_css=False,
                    elem_id="compared",
                )
        last = gr.State(None)  # inside: all that stands in Tabs counts as a tab there
    wiring = Wiring(studio, status)

    def choices(one: str | None, other: str | None) -> tuple:
        made = []
        for kind, before in (("content", one), ("style", other)):
            known = studio.ready(kind)
            values = [ident for _, ident in known]
            made.append(
                gr.update(choices=known, value=before if before in values else next(iter(values), None))
            )
        return (*made, "")

    def shot(
        way: str, one: library.Concept | None, other: library.Concept | None, look: Look, number: int
    ) -> Shot:
        """Both ways answer the same prompt: the one that calls the pair, unless another was typed."""
        if way == "second":
            fused = _second(studio, one, other)
            return sheet.shot_of(project, look, number, None, None, fused)
        return sheet.shot_of(
            project,
            replace(look, summed=way == "summed"),
            number,
            one if way in ("content", "composed", "summed") else None,
            other if way in ("style", "composed", "summed") else None,
        )

    def show(found: tuple[str, str, tuple[str, str]], how: str) -> str:
        one, other, labels = found
        return html.compared(one, other, labels, how == "slider")

    def do_compare(one: Any, other: Any, a: str, b: str, text: str, number: float, how: str):
        chosen = [next(iter(studio.chosen(ident)), None) for ident in (one, other)]
        if not any(chosen):
            raise UserError("nothing is chosen: choose a content, a style, or both")
        if number is None:
            raise UserError("the seed is a whole number: fill it in")
        asked = str(text or "").strip() or sheet.pair_prompt(*chosen)
        look = replace(sheet.usual(project), prompt=asked)
        shots = [shot(way, chosen[0], chosen[1], look, int(number)) for way in (a, b)]
        cells.check(project, shots)
        yield gr.skip(), gr.skip(), html.note("Drawing ...", "busy")
        known = {value: label for label, value in WAYS}
        found = studio.redrawn(shots[0]), studio.redrawn(shots[1]), (known[a], known[b])
        yield show(found, how), found, html.note(f"Both: {asked}, seed {int(number)}", "good")

    def show_pinned(how: str) -> tuple:
        names = (project.drafts().get("pinned") or {}).get("cells", [])
        if len(names) != 2:
            raise UserError("two images are needed: pin them on Mix")
        found = [cells.read_back(project, name) for name in names]
        told = [f"{one.prompt}, seed {one.seed}" for one in found]
        seen = names[0], names[1], (told[0], told[1])
        return show(seen, how), seen, ""

    def change_view(how: str, found: Any) -> tuple:
        return (show(found, how) if found else gr.skip()), ""

    wiring.on([blocks.load, tab.select], choices, [content, style], [content, style])
    wiring.on(compare.click, do_compare, [content, style, left, right, prompt, seed, view], [shown, last])
    wiring.on(pinned.click, show_pinned, [view], [shown, last])
    wiring.on(view.input, change_view, [view, last], [shown])


def _second(studio: Studio, one: library.Concept | None, other: library.Concept | None) -> library.Concept:
    """The second stage of this pair. Raises UserError where there is none."""
    wanted = (one and one.ident, other and other.ident)
    for concept in library.concepts(studio.project):
        if concept.pair == wanted and library.ready(studio.project, concept):
            return concept
    raise UserError("this pair has no second stage yet: start it on Mix")
