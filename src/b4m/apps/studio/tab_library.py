"""Library: a card a concept; which go together; rename, delete, bring back; files from elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import gradio as gr

from ...core.errors import UserError
from . import html, library, taking_in
from .events import Wiring, acted, piece
from .library import Concept
from .studio import Studio


def build(studio: Studio, blocks: gr.Blocks) -> None:
    with gr.Tab("Library", id="library") as tab:
        with gr.Row():
            with gr.Column(scale=7, min_width=320):
                shelf = piece(elem_id="shelf")
            with gr.Column(scale=3, min_width=260):
                desk = _Desk()
        chosen = gr.State("")  # inside: all that stands in Tabs counts as a tab there
    wiring, keeping = Wiring(studio, desk.status), _Keeping(studio)
    everything = [chosen, shelf, desk.about, desk.name]
    wiring.on([blocks.load, tab.select], keeping.again, [chosen], everything)
    wiring.on(shelf.click, keeping.choose, [], everything)
    wiring.on([desk.rename.click, desk.name.submit], keeping.rename, [chosen, desk.name], everything)
    wiring.on(desk.delete.click, keeping.delete, [chosen], everything)
    wiring.on(desk.undo.click, keeping.undo, [], everything)
    wiring.on(desk.file.upload, keeping.take, [desk.file, desk.called], [*everything, desk.file])


class _Desk:
    """What can be done with a card, and what is known of it."""

    def __init__(self) -> None:
        self.name = gr.Textbox(label="Rename", interactive=True, max_length=60, elem_id="rename")
        with gr.Row():
            self.rename = gr.Button("Rename", size="sm")
            self.delete = gr.Button("Delete", size="sm", variant="stop", elem_id="delete")
            self.undo = gr.Button("Undo delete", size="sm", elem_id="undo")
        self.status = gr.HTML(apply_default_css=False, elem_id="library-status")
        self.about = gr.HTML(apply_default_css=False, elem_id="about")
        with gr.Accordion("Take in a file from elsewhere", open=False):
            self.file = gr.File(
                label="A concept or LoRA file", file_types=[".safetensors"], height=110, elem_id="import"
            )
            self.called = gr.Textbox(label="Name for the file", max_length=60)


class _Keeping:
    """The tab's answers: the card that is chosen, all cards, what is known of it, its name; then a line of text."""

    def __init__(self, studio: Studio) -> None:
        self.studio, self.project = studio, studio.project

    def again(self, ident: str) -> tuple:
        return (*self._shelves(ident), "")

    def choose(self, event: gr.EventData) -> tuple:
        return (*self._shelves(acted(event)[1]), "")

    def rename(self, ident: str, text: str) -> tuple:
        library.rename(self.project, _one(ident), text)
        return (*self._shelves(ident), html.note("Renamed.", "good"))

    def delete(self, ident: str) -> tuple:
        gone = library.get(self.project, _one(ident))
        self.studio.delete(ident)
        told = f"{gone.name} is in the trash: Undo delete brings it back."
        return (*self._shelves(""), html.note(told, "good"))

    def undo(self) -> tuple:
        trash = library.deleted(self.project)
        if not trash:
            return (*self._shelves(""), html.note("The trash is empty.", "note"))
        back = library.restore(self.project, trash[0].ident)
        return (*self._shelves(back.ident), html.note(f"{back.name} is back.", "good"))

    def take(self, path: str | None, text: str) -> tuple:
        """A file from elsewhere; the field that it was dropped into is empty again."""
        if not path:
            return (*self._shelves(""), None, "")
        one = taking_in.take_in(self.project, self.studio.worker, Path(path), text)
        return (*self._shelves(one.ident), None, html.note(f"{one.name} is in the library.", "good"))

    def _shelves(self, ident: str) -> tuple:
        """The cards, what is said of the chosen one, and its name."""
        found, states = library.concepts(self.project), self.studio.states()
        one = next((concept for concept in found if concept.ident == ident), None)
        if one is None:
            told = html.empty("Choose a card", "It shows what is known, and which others go with it.")
            return "", html.cards(self.project, found, states), told, ""
        mine = library.facts(self.project, one)
        against = self._against(one, mine, found)
        values = {"kind": html.KIND[one.kind], "class word": one.class_word, "trigger word": one.trigger}
        values |= {key: value[:200] for key, value in sorted(mine.items())} or {"file": "not trained yet"}
        return ident, html.cards(self.project, found, states, ident, against), html.table(values), one.name

    def _against(self, one: Concept, mine: dict[str, str], others: Sequence[Concept]) -> dict[str, str]:
        """What keeps each concept of the other kind from going with this one, "" for nothing."""
        against = {}
        for other in others:
            if mine and other.kind != one.kind and "lora" not in (one.kind, other.kind):
                theirs = library.facts(self.project, other)
                against[other.ident] = library.differences(mine, theirs) if theirs else "not trained yet"
        return against


def _one(ident: str) -> str:
    if not ident:
        raise UserError("no card is chosen: choose one first")
    return ident
