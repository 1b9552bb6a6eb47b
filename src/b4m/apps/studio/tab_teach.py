"""Teach: images, a name, a class word, a trigger word, and a training that needs this page no more."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ...data.formats import FORMATS
from . import advanced, html, references, teach
from .events import Wiring, acted, piece
from .studio import Studio
from .teach import Form
from .words import DEFAULTS

KINDS = [("A content: a thing", "content"), ("A style: a look", "style")]
LENGTHS = [("Quick try", "quick"), ("Usual", "usual"), ("Long", "long")]
TICK = 1.5  # seconds between two looks at the trainings
SEARCH_BOX = """<label class="search">Search <input type="search" id="search"
  placeholder="--lr, rank, schedule ..."></label>"""
RESTORED = '<i id="restored"></i>'  # what stood in the form stands there again
# Hides what does not match, in the page itself.
SEARCH = """element.addEventListener('input', event => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  document.querySelectorAll('.setting').forEach(one => {
    const about = one.innerText.toLowerCase();
    one.classList.toggle('hidden', !words.every(word => about.includes(word)));
  });
});"""


def build(studio: Studio, blocks: gr.Blocks) -> None:
    with gr.Tab("Teach", id="teach"):
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                form = _Form(studio)
            with gr.Column(scale=4, min_width=300):
                gr.HTML('<h2 class="caption">Trainings</h2>', apply_default_css=False)
                panel = piece(elem_id="trainings")
        _wire_form(studio, blocks, form)
        _wire_trainings(studio, blocks, panel, form)


class _Form:
    """The components of the form, top to bottom."""

    def __init__(self, studio: Studio) -> None:
        preset = studio.project.base.preset
        self.kind = gr.Radio(KINDS, value="content", label="What is it?", elem_id="kind")
        self.files = gr.File(
            label="Images: 3 to 7 of a content, 1 to 3 of a style",
            file_count="multiple",
            file_types=[*(suffix for _, suffixes in FORMATS.values() for suffix in suffixes), ".txt"],
            height=140,
            elem_id="upload",
        )
        self.desk = piece(elem_id="desk")
        self.name = gr.Textbox(label="Name", placeholder="My bear", max_length=60, elem_id="name")
        with gr.Row():
            self.class_word = gr.Textbox(
                label="Class word",
                placeholder="teddybear",
                info="what it is, in plain words",
                elem_id="class-word",
            )
            self.trigger = gr.Textbox(
                label="Trigger word", value="snq", info="a made-up word that will call it", elem_id="trigger"
            )
        self.advice = gr.HTML(apply_default_css=False, elem_id="advice")
        self.length = gr.Radio(LENGTHS, value="usual", label="Training", elem_id="length")
        with gr.Accordion("Advanced: every other setting, by its flag", open=False, elem_id="advanced"):
            self.partners = gr.Dropdown(
                teach.partner_choices(studio.project, "content"),
                value=[teach.SHIPPED],
                multiselect=True,
                label="--partner-dirs",
                info="taught beside these, so that content and style do not grow together",
            )
            gr.HTML(SEARCH_BOX, js_on_load=SEARCH, apply_default_css=False)
            # The same settings for both kinds, with defaults of their own.
            self.rows = {kind: advanced.rows(job, preset) for kind, job in teach.CONFIGS.items()}
            self.settings = [_setting(row) for row in self.rows["content"]]
        with gr.Accordion("The command that does the same", open=False, elem_id="command-box"):
            self.command = gr.Textbox(
                show_label=False,
                label="command",
                lines=9,
                buttons=["copy"],
                interactive=False,
                elem_id="command",
            )
        with gr.Row():
            self.doctor = gr.Button("Check this machine", elem_id="doctor")
            self.start = gr.Button("Start training", variant="primary", elem_id="start")
        self.status = gr.HTML(apply_default_css=False, elem_id="teach-status")
        self.restored = gr.HTML(apply_default_css=False)  # of its own: the line above it changes at once

    @property
    def typed(self) -> list[Any]:
        return [
            self.kind, self.name, self.class_word, self.trigger, self.length, self.partners, *self.settings
        ]  # fmt: skip

    def read(self, *values: Any) -> Form:
        """From the values of `typed`."""
        kind, name, class_word, trigger, length, partners, *settings = values
        typed = zip(self.rows[kind], settings, strict=True)
        own = {row.name: str(value) for row, value in typed if str(value) != row.default}
        texts = [str(text or "") for text in (name, class_word, trigger)]
        return Form(kind, texts[0], texts[1], texts[2], length, tuple(partners or ()), own)

    def show(self, form: Form) -> list[Any]:
        """Values of `typed`."""
        values = [form.typed.get(row.name, row.default) for row in self.rows[form.kind]]
        return [
            form.kind,
            form.name,
            form.class_word,
            form.trigger,
            form.length,
            list(form.partners),
            *values,
        ]


def _setting(row: advanced.Row) -> gr.Textbox | gr.Dropdown:
    options: dict[str, Any] = {
        "label": row.flag,
        "info": row.doc,
        "value": row.default,
        "elem_classes": "setting",
    }
    if row.choices:
        return gr.Dropdown(list(row.choices), **options)
    return gr.Textbox(lines=1, **options)


def _wire_form(studio: Studio, blocks: gr.Blocks, form: _Form) -> None:
    wiring, teaching = Wiring(studio, form.status), _Teaching(studio, form)
    everything = [*form.typed, form.desk, form.command]
    wiring.on(form.files.upload, teaching.upload, [form.kind, form.files], [form.files, form.desk])
    wiring.on(form.desk.click, teaching.drop, [form.kind], [form.desk])
    wiring.on(form.kind.input, teaching.show, [form.kind], everything)
    wiring.on(blocks.load, teaching.reopened, [], [*everything, form.restored])
    # Not .input: what is pasted is no input to Gradio.
    changes = [one.change for one in form.typed if one is not form.kind]
    wiring.on(changes, teaching.change, form.typed, [form.command, form.desk], trigger_mode="always_last")
    words = [form.trigger.change, form.class_word.change]
    wiring.on(
        words, teaching.advise, [form.trigger, form.class_word], [form.advice], trigger_mode="always_last"
    )
    wiring.on(form.doctor.click, teaching.examine, [], [form.advice])
    wiring.on(form.start.click, teaching.start, form.typed, [form.desk, form.name])


class _Teaching:
    """The form's answers: a value an output, then its line of text."""

    def __init__(self, studio: Studio, form: _Form) -> None:
        self.studio, self.project, self.form = studio, studio.project, form

    def upload(self, kind: str, files: list[str] | None) -> tuple:
        """Put images on the desk; what is wrong with one is said beside it."""
        some = [(Path(file), Path(file).name) for file in files or []]
        side = teach.cut(self.project, kind)[0]
        found = references.add(teach.desk(self.project, kind), some, self.studio.size, side)
        refused = [one for one in found if one.problem]
        told = html.note(f"{len(refused)} of {len(found)} images were not taken: see beside them", "bad")
        return None, self._desk(kind, refused), told if refused else ""

    def drop(self, kind: str, event: gr.EventData) -> tuple:
        """Take an image from the desk."""
        act, file = acted(event)
        if act == "drop":
            references.remove(teach.desk(self.project, kind), file)
        return self._desk(kind), ""

    # Whatever fills a field is a change, a start that empties the name too: neither of these two touches the line
    # that says how the start went.
    def change(self, *values: Any) -> tuple:
        """Keep what is typed, and show the command that it makes."""
        read = self.form.read(*values)
        before = teach.cut(self.project, read.kind)
        self.project.save_draft(f"teach-{read.kind}", read.saved())
        self.project.save_draft("teach", {"kind": read.kind})
        desk = gr.skip() if teach.cut(self.project, read.kind) == before else self._desk(read.kind)
        return teach.shown_command(self.project, read), desk, gr.skip()

    def advise(self, trigger: str, class_word: str) -> tuple:
        """What is said of the words."""
        asked = trigger or class_word
        return (html.advice(self.studio.advice(trigger, class_word)) if asked else ""), gr.skip()

    def show(self, kind: str) -> tuple:
        """The form as it was left for this kind."""
        form = self.form
        saved = self.project.drafts().get(f"teach-{kind}") or {"trigger": DEFAULTS[kind]}
        read = Form.of({**saved, "kind": kind})
        choices = teach.partner_choices(self.project, kind)
        known = {value for _, value in choices}
        partners = [value for value in read.partners if value in known] or [teach.SHIPPED]
        values = form.show(read)
        values[form.typed.index(form.partners)] = gr.update(choices=choices, value=partners)
        return (*values, self._desk(kind), teach.shown_command(self.project, read), "")

    def reopened(self) -> tuple:
        """The form as it was left."""
        kind = (self.project.drafts().get("teach") or {}).get("kind")
        *values, _ = self.show(kind if kind in teach.CONFIGS else "content")
        return (*values, RESTORED, "")

    def examine(self) -> Iterator[tuple]:
        """What `b4m doctor` finds."""
        yield "", html.note("Looking at this machine ...", "busy")
        yield "", html.findings(self.studio.doctor.findings())

    def start(self, *values: Any) -> Iterator[tuple]:
        """Queue the training, unless it or this machine cannot be used."""
        read = self.form.read(*values)
        teach.check(self.project, read)  # at once: the look at the machine takes seconds
        yield gr.skip(), gr.skip(), html.note("Looking at this machine ...", "busy")
        doctor = self.studio.doctor
        if bad := doctor.failures(doctor.findings()):
            yield gr.skip(), gr.skip(), html.findings(bad)
            return
        concept = teach.begin(self.project, read)
        self.studio.runner.turn()
        self.project.save_draft(f"teach-{read.kind}", {"trigger": read.trigger})
        told = f"{concept.name} is in the queue. It trains on its own: this page may be closed."
        yield self._desk(read.kind), "", html.note(told, "good")

    def _desk(self, kind: str, refused: Sequence[references.Reference] = ()) -> str:
        kept = references.listing(teach.desk(self.project, kind))
        return html.desk(kind, kept, refused, teach.cut(self.project, kind))


def _wire_trainings(studio: Studio, blocks: gr.Blocks, panel: gr.HTML, form: _Form) -> None:
    wiring, last, clock = Wiring(studio, form.status), gr.State(""), gr.Timer(TICK)

    def look(before: str) -> tuple:
        now = html.trainings(studio.project, studio.trainings())
        return (gr.skip(), gr.skip()) if now == before else (now, now)

    def act(event: gr.EventData) -> tuple:
        what, ident = acted(event)
        if what == "stop":
            studio.runner.stop(ident)
        elif what == "continue":
            studio.runner.go_on(ident)
            studio.runner.turn()
        now = html.trainings(studio.project, studio.trainings())
        told = {
            "stop": "It finishes its step, saves it, and stops.",
            "continue": "It goes on where it stopped.",
        }
        return now, now, html.note(told.get(what, ""), "good")

    quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    gr.on([clock.tick, blocks.load], look, [last], [panel, last], **quiet)
    wiring.on(panel.click, act, [], [panel, last])
