"""Export: one LoRA file for another tool, with a workflow that loads it; and from there to the Hugging Face hub."""

from typing import Any

import gradio as gr

from . import drawing, exporting, html, pushing, sheet
from .events import Wiring
from .exporting import Wish
from .studio import Studio


def build(studio: Studio, blocks: gr.Blocks) -> None:
    project = studio.project
    with gr.Tab("Export", id="export") as tab:
        with gr.Row():
            with gr.Column(scale=4, min_width=280):
                content = gr.Dropdown([], label="Content", elem_id="export-content")
                style = gr.Dropdown([], label="Style", elem_id="export-style")
                lora = gr.Dropdown([], label="Or a fused or foreign LoRA", elem_id="export-lora")
                with gr.Row():
                    up = gr.Slider(0, 2, 1, step=0.05, label="Content strength, folded in")
                    down = gr.Slider(0, 2, 1, step=0.05, label="Style strength, folded in")
                dialect = gr.Dropdown(
                    exporting.dialects(), value="kohya-original", label="For", elem_id="dialect"
                )
                dtype = gr.Radio(list(exporting.DTYPES), value="fp16", label="Number format")
                workflow = gr.Checkbox(True, label="and a ComfyUI workflow (JSON) that loads it")
                write = gr.Button("Export", variant="primary", elem_id="do-export")
                status = gr.HTML(apply_default_css=False, elem_id="export-status")
            with gr.Column(scale=6, min_width=300):
                made = gr.HTML(apply_default_css=False, elem_id="exports")
                hub = _Hub()
    wiring = Wiring(studio, status)

    def listed() -> str:
        return html.exports([(path.name, path.stat().st_size) for path in exporting.exported(project)])

    def choices(one: str | None, other: str | None, fused: str | None) -> tuple:
        updates = []
        for kind, before in (("content", one), ("style", other), ("lora", fused)):
            known = [("none", ""), *studio.ready(kind)]
            values = [ident for _, ident in known]
            first = values[1] if len(values) > 1 and kind != "lora" else ""
            updates.append(gr.update(choices=known, value=before if before in values and before else first))
        return (*updates, listed(), "")

    def export(one: str, other: str, fused: str, a: float, b: float, spelling: str, kind: str, flow: bool):
        yield gr.skip(), html.note("Writing ...", "busy")
        chosen: list[Any] = [next(iter(studio.chosen(ident)), None) for ident in (one, other, fused)]
        wish = Wish(*chosen, dialect=spelling, dtype=kind, content_strength=a, style_strength=b)
        given = exporting.settings(project, wish)
        studio.worker.ask(drawing.export, {**given, "base_model": project.base.model}, project.base.preset)
        path = project.folder / given["output"]
        told = f"{path.name} is written."
        if flow:
            prompt = sheet.pair_prompt(wish.content, wish.style) if wish.lora is None else wish.lora.words
            told += f" {exporting.write_workflow(project, path, prompt).name} loads it in ComfyUI."
        yield listed(), html.note(told, "good")

    def push(name: str, repo: str, licence: str, public: bool, images: list[str] | None):
        given = pushing.settings(project, name, repo, licence, public, images)
        yield html.note(f"Sending {name} to {given['repo']} ...", "busy")
        yield html.note(f"Sent: {studio.worker.ask(drawing.push, given)}", "good")

    def sendable(before: str | None) -> tuple:
        names, (text, ready) = pushing.files(project), pushing.state()
        value = before if before in names else next(iter(names), None)
        return gr.update(choices=names, value=value), gr.update(value=text, interactive=ready), ""

    wiring.on([blocks.load, tab.select], choices, [content, style, lora], [content, style, lora, made])
    wiring.on(write.click, export, [content, style, lora, up, down, dialect, dtype, workflow], [made])
    to_hub = Wiring(studio, hub.status)
    to_hub.on([blocks.load, tab.select, made.change], sendable, [hub.file], [hub.file, hub.push])
    to_hub.on(hub.push.click, push, [hub.file, hub.repo, hub.licence, hub.public, hub.images])


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
