"""Library: a card a concept; which go together; rename, delete, bring back; files from elsewhere."""

from pathlib import Path

import gradio as gr

from ...core.errors import UserError
from . import html, library, taking_in
from .events import Wiring, acted, piece
from .studio import Studio


def build(studio: Studio, blocks: gr.Blocks) -> None:
    project = studio.project
    with gr.Tab("Library", id="library") as tab:
        with gr.Row():
            with gr.Column(scale=7, min_width=320):
                shelf = piece(elem_id="shelf")
            with gr.Column(scale=3, min_width=260):
                name = gr.Textbox(label="Rename", interactive=True, max_length=60, elem_id="rename")
                with gr.Row():
                    rename = gr.Button("Rename", size="sm")
                    delete = gr.Button("Delete", size="sm", variant="stop", elem_id="delete")
                    undo = gr.Button("Undo delete", size="sm", elem_id="undo")
                status = gr.HTML(apply_default_css=False, elem_id="library-status")
                about = gr.HTML(apply_default_css=False, elem_id="about")
                with gr.Accordion("Take in a file from elsewhere", open=False):
                    file = gr.File(
                        label="A concept or LoRA file",
                        file_types=[".safetensors"],
                        height=110,
                        elem_id="import",
                    )
                    called = gr.Textbox(label="Name for the file", max_length=60)
        chosen = gr.State("")  # inside: all that stands in Tabs counts as a tab there
    wiring = Wiring(studio, status)

    def shelves(ident: str) -> tuple:
        """The cards, what is said of the chosen one, and its name."""
        found, states = library.concepts(project), studio.states()
        one = next((concept for concept in found if concept.ident == ident), None)
        if one is None:
            told = html.empty("Choose a card", "It shows what is known, and which others go with it.")
            return "", html.cards(project, found, states), told, ""
        mine, against = library.facts(project, one), {}
        for other in found:
            if mine and other.kind != one.kind and "lora" not in (one.kind, other.kind):
                theirs = library.facts(project, other)
                against[other.ident] = library.differences(mine, theirs) if theirs else "not trained yet"
        values = {"kind": html.KIND[one.kind], "class word": one.class_word, "trigger word": one.trigger}
        values |= {key: value[:200] for key, value in sorted(mine.items())} or {"file": "not trained yet"}
        return ident, html.cards(project, found, states, ident, against), html.table(values), one.name

    def again(ident: str) -> tuple:
        return (*shelves(ident), "")

    def choose(event: gr.EventData) -> tuple:
        return (*shelves(acted(event)[1]), "")

    def do_rename(ident: str, text: str) -> tuple:
        library.rename(project, _one(ident), text)
        return (*shelves(ident), html.note("Renamed.", "good"))

    def do_delete(ident: str) -> tuple:
        gone = library.get(project, _one(ident))
        studio.delete(ident)
        return (*shelves(""), html.note(f"{gone.name} is in the trash: Undo delete brings it back.", "good"))

    def do_undo() -> tuple:
        trash = library.deleted(project)
        if not trash:
            return (*shelves(""), html.note("The trash is empty.", "note"))
        back = library.restore(project, trash[0].ident)
        return (*shelves(back.ident), html.note(f"{back.name} is back.", "good"))

    def take(path: str | None, text: str) -> tuple:
        if not path:
            return (*shelves(""), None, "")
        one = taking_in.take_in(project, studio.worker, Path(path), text)
        return (*shelves(one.ident), None, html.note(f"{one.name} is in the library.", "good"))

    everything = [chosen, shelf, about, name]
    wiring.on([blocks.load, tab.select], again, [chosen], everything)
    wiring.on(shelf.click, choose, [], everything)
    wiring.on([rename.click, name.submit], do_rename, [chosen, name], everything)
    wiring.on(delete.click, do_delete, [chosen], everything)
    wiring.on(undo.click, do_undo, [], everything)
    wiring.on(file.upload, take, [file, called], [*everything, file])


def _one(ident: str) -> str:
    if not ident:
        raise UserError("no card is chosen: choose one first")
    return ident
