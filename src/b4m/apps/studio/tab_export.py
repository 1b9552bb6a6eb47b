"""Export: one LoRA file for another tool, with a workflow that loads it; and from there to the Hugging Face hub."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from . import drawing, exporting, html, pushing, sheet
from .events import Wiring
from .exporting import Wish
from .studio import Studio


def build(studio: Studio, blocks: gr.Blocks) -> None:
    with gr.Tab("Export", id="export") as tab:
        with gr.Row():
            with gr.Column(scale=4, min_width=280):
                wish = _Wished()
            with gr.Column(scale=6, min_width=300):
                made = gr.HTML(apply_default_css=False, elem_id="exports")
                hub = _Hub()
    wiring, sending = Wiring(studio, wish.status), _Exporting(studio)
    wiring.on([blocks.load, tab.select], sending.choices, wish.files, [*wish.files, made])
    wiring.on(wish.write.click, sending.export, [*wish.files, *wish.form], [made])
    to_hub = Wiring(studio, hub.status)
    to_hub.on([blocks.load, tab.select, made.change], sending.sendable, [hub.file], [hub.file, hub.push])
    to_hub.on(hub.push.click, sending.push, [hub.file, hub.repo, hub.licence, hub.public, hub.images])


class _Wished:
    """The components of an export, top to bottom."""

    def __init__(self) -> None:
        self.content = gr.Dropdown([], label="Content", elem_id="export-content")
        self.style = gr.Dropdown([], label="Style", elem_id="export-style")
        self.lora = gr.Dropdown([], label="Or a fused or foreign LoRA", elem_id="export-lora")
        with gr.Row():
            self.up = gr.Slider(0, 2, 1, step=0.05, label="Content strength, folded in")
            self.down = gr.Slider(0, 2, 1, step=0.05, label="Style strength, folded in")
        self.dialect = gr.Dropdown(
            exporting.dialects(), value="kohya-original", label="For", elem_id="dialect"
        )
        self.dtype = gr.Radio(list(exporting.DTYPES), value="fp16", label="Number format")
        self.workflow = gr.Checkbox(True, label="and a ComfyUI workflow (JSON) that loads it")
        self.write = gr.Button("Export", variant="primary", elem_id="do-export")
        self.status = gr.HTML(apply_default_css=False, elem_id="export-status")

    @property
    def files(self) -> list[Any]:
        return [self.content, self.style, self.lora]

    @property
    def form(self) -> list[Any]:
        return [self.up, self.down, self.dialect, self.dtype, self.workflow]


class _Exporting:
    """The tab's answers: a value an output, then a line of text."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.project = studio, studio.project

    def choices(self, one: str | None, other: str | None, fused: str | None) -> tuple:
        """What is trained by now, and what has been written."""
        updates = []
        for kind, before in (("content", one), ("style", other), ("lora", fused)):
            known = [("none", ""), *self.studio.ready(kind)]
            values = [ident for _, ident in known]
            first = values[1] if len(values) > 1 and kind != "lora" else ""
            updates.append(gr.update(choices=known, value=before if before in values and before else first))
        return (*updates, self._listed(), "")

    def export(
        self, one: str, other: str, fused: str, a: float, b: float, spelling: str, kind: str, flow: bool
    ) -> Iterator[tuple]:
        """Write the file and, if asked for, a workflow beside it."""
        project = self.project
        yield gr.skip(), html.note("Writing ...", "busy")
        chosen: list[Any] = [next(iter(self.studio.chosen(ident)), None) for ident in (one, other, fused)]
        wish = Wish(*chosen, dialect=spelling, dtype=kind, content_strength=a, style_strength=b)
        given = exporting.settings(project, wish)
        made_for = {**given, "base_model": project.base.model}
        self.studio.worker.ask(drawing.export, made_for, project.base.preset)
        path = project.folder / given["output"]
        told = f"{path.name} is written."
        if flow:
            prompt = sheet.pair_prompt(wish.content, wish.style) if wish.lora is None else wish.lora.words
            told += f" {exporting.write_workflow(project, path, prompt).name} loads it in ComfyUI."
        yield self._listed(), html.note(told, "good")

    def push(
        self, name: str, repo: str, licence: str, public: bool, images: list[str] | None
    ) -> Iterator[tuple]:
        """Send an exported file to the hub."""
        given = pushing.settings(self.project, name, repo, licence, public, images)
        yield (html.note(f"Sending {name} to {given['repo']} ...", "busy"),)
        yield (html.note(f"Sent: {self.studio.worker.ask(drawing.push, given)}", "good"),)

    def sendable(self, before: str | None) -> tuple:
        """The files that can be sent, and whether the hub knows who sends."""
        names, (text, ready) = pushing.files(self.project), pushing.state()
        value = before if before in names else next(iter(names), None)
        return gr.update(choices=names, value=value), gr.update(value=text, interactive=ready), ""

    def _listed(self) -> str:
        return html.exports([(path.name, path.stat().st_size) for path in exporting.exported(self.project)])


class _Hub:
    """The components of a push, top to bottom."""

    def __init__(self) -> None:
        with gr.Accordion(pushing.PUSH, open=False, elem_id="hub"):
            self.file = gr.Dropdown([], label="Exported file", elem_id="hub-file")
            self.repo = gr.Textbox(
                label="Repository", placeholder="owner/name", max_length=200, elem_id="hub-repo"
            )
            self.licence = gr.Textbox(
                label="Licence",
                info="yours to choose, as the hub spells it: cc-by-4.0, openrail++, other",
                max_length=60,
            )
            self.images = gr.File(
                label="Images for the card, sent without their metadata", file_count="multiple", height=110
            )
            self.public = gr.Checkbox(False, label="everybody may see it (without: private)")
            self.push = gr.Button(pushing.PUSH, interactive=False, elem_id="do-push")
            self.status = gr.HTML(apply_default_css=False, elem_id="hub-status")
