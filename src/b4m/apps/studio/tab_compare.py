"""Compare: two ways to draw one prompt with one seed, or two pinned images, side by side or under a slider."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from ...core.errors import UserError
from . import cells, html, library, sheet
from .cells import Shot
from .events import Wiring
from .library import Concept
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
    with gr.Tab("Compare", id="compare") as tab:
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                ask = _Ask()
            with gr.Column(scale=7, min_width=320):
                shown = gr.HTML(
                    html.empty("Nothing compared yet", "Choose two ways to draw, or pin two images on Mix."),
                    apply_default_css=False,
                    elem_id="compared",
                )
        last = gr.State(None)  # inside: all that stands in Tabs counts as a tab there
    wiring, comparing = Wiring(studio, ask.status), _Comparing(studio)
    wiring.on([blocks.load, tab.select], comparing.choices, ask.pair, ask.pair)
    wiring.on(ask.compare.click, comparing.compare, [*ask.pair, *ask.drawn, ask.view], [shown, last])
    wiring.on(ask.pinned.click, comparing.pinned, [ask.view], [shown, last])
    wiring.on(ask.view.input, comparing.change_view, [ask.view, last], [shown])


class _Ask:
    """What to compare."""

    def __init__(self) -> None:
        self.content = gr.Dropdown([], label="Content", elem_id="compare-content")
        self.style = gr.Dropdown([], label="Style", elem_id="compare-style")
        self.left = gr.Dropdown(WAYS, value="base", label="Left", elem_id="compare-left")
        self.right = gr.Dropdown(WAYS, value="summed", label="Right", elem_id="compare-right")
        self.prompt = gr.Textbox(label="Prompt", info="empty: the one that calls the pair")
        self.seed = gr.Number(77, label="Seed", precision=0, minimum=0)
        self.view = gr.Radio(
            [("side by side", "beside"), ("under a slider", "slider")], value="beside", label="Shown"
        )
        self.compare = gr.Button("Compare", variant="primary", elem_id="do-compare")
        self.pinned = gr.Button("Show the two that I pinned", elem_id="show-pinned")
        self.status = gr.HTML(apply_default_css=False, elem_id="compare-status")

    @property
    def pair(self) -> list[Any]:
        return [self.content, self.style]

    @property
    def drawn(self) -> list[Any]:
        return [self.left, self.right, self.prompt, self.seed]


class _Comparing:
    """The tab's answers: a value an output, then its line of text."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.project = studio, studio.project

    def choices(self, one: str | None, other: str | None) -> tuple:
        """What is trained by now; the newest is chosen where nothing was."""
        made = []
        for kind, before in (("content", one), ("style", other)):
            known = self.studio.ready(kind)
            values = [ident for _, ident in known]
            made.append(
                gr.update(choices=known, value=before if before in values else next(iter(values), None))
            )
        return (*made, "")

    def compare(
        self, one: Any, other: Any, left: str, right: str, text: str, number: float, how: str
    ) -> Iterator[tuple]:
        """Both ways answer the same prompt: the one that calls the pair, unless another was typed."""
        chosen = [next(iter(self.studio.chosen(ident)), None) for ident in (one, other)]
        if not any(chosen):
            raise UserError("nothing is chosen: choose a content, a style, or both")
        if number is None:
            raise UserError("the seed is a whole number: fill it in")
        asked = str(text or "").strip() or sheet.pair_prompt(*chosen)
        look = replace(sheet.usual(self.project), prompt=asked)
        shots = [self._shot(way, chosen[0], chosen[1], look, int(number)) for way in (left, right)]
        cells.check(self.project, shots)
        yield gr.skip(), gr.skip(), html.note("Drawing ...", "busy")
        known = {value: label for label, value in WAYS}
        names = self.studio.redrawn(shots[0]), self.studio.redrawn(shots[1])
        found = (*names, (known[left], known[right]))
        yield _shown(found, how), found, html.note(f"Both: {asked}, seed {int(number)}", "good")

    def pinned(self, how: str) -> tuple:
        """The two images that were pinned on Mix."""
        names = (self.project.drafts().get("pinned") or {}).get("cells", [])
        if len(names) != 2:
            raise UserError("two images are needed: pin them on Mix")
        found = [cells.read_back(self.project, name) for name in names]
        told = [f"{one.prompt}, seed {one.seed}" for one in found]
        seen = names[0], names[1], (told[0], told[1])
        return _shown(seen, how), seen, ""

    def change_view(self, how: str, found: Any) -> tuple:
        """What is compared, side by side or under a slider."""
        return (_shown(found, how) if found else gr.skip()), ""

    def _shot(self, way: str, one: Concept | None, other: Concept | None, look: Look, seed: int) -> Shot:
        """One of WAYS. Raises UserError for a second stage that is not there."""
        if way == "second":
            return sheet.shot_of(self.project, look, seed, None, None, _second(self.studio, one, other))
        return sheet.shot_of(
            self.project,
            replace(look, summed=way == "summed"),
            seed,
            one if way in ("content", "composed", "summed") else None,
            other if way in ("style", "composed", "summed") else None,
        )


def _shown(found: tuple[str, str, tuple[str, str]], how: str) -> str:
    one, other, labels = found
    return html.compared(one, other, labels, how == "slider")


def _second(studio: Studio, one: Concept | None, other: Concept | None) -> Concept:
    """The second stage of this pair. Raises UserError where there is none."""
    wanted = (one and one.ident, other and other.ident)
    for concept in library.concepts(studio.project):
        if concept.pair == wanted and library.ready(studio.project, concept):
            return concept
    raise UserError("this pair has no second stage yet: start it on Mix")
