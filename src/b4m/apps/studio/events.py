"""Events of the page: a user's mistake is said in the tab's own line and leaves all that was typed as it was."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ...core.errors import UserError
from . import html
from .studio import Studio

# A click on anything with data-act is an event; whoever stood on such a button still stands there when the piece is
# drawn anew.
SCRIPT = """
let held = null;
element.addEventListener('focusin', event => {
  const at = event.target.closest('[data-act]');
  held = at ? [at.dataset.act, at.dataset.id] : null;
});
element.addEventListener('click', event => {
  const at = event.target.closest('[data-act]');
  if (at) trigger('click', {act: at.dataset.act, id: at.dataset.id});
});
new MutationObserver(() => {
  if (!held || document.activeElement !== document.body) return;
  const at = [...element.querySelectorAll('[data-act]')].find(
    other => other.dataset.act === held[0] && other.dataset.id === held[1]);
  if (at) at.focus({preventScroll: true});
}).observe(element, {childList: true, subtree: true});
"""


def piece(value: str = "", **options: Any) -> gr.HTML:
    """A part of the page that is drawn anew, and whose buttons are events."""
    return gr.HTML(value, js_on_load=SCRIPT, apply_default_css=False, **options)


class Wiring:
    """Connects events of one tab. Every function returns a value an output, then its line of text ("" for none)."""

    def __init__(self, studio: Studio, status: gr.HTML) -> None:
        self.studio, self.status = studio, status

    def on(
        self,
        triggers: Any,
        function: Callable,
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        **options: Any,
    ) -> Any:
        """triggers: one event or several."""
        some = triggers if isinstance(triggers, list | tuple) else [triggers]
        run = self._stream(function, len(outputs)) if inspect.isgeneratorfunction(function) else None
        options = {"show_progress": "hidden", "api_visibility": "private", **options}
        return gr.on(
            some,
            run or self._once(function, len(outputs)),
            list(inputs),
            [*outputs, self.status],
            **options,
        )

    def _refused(self, error: UserError, count: int) -> tuple:
        return (*[gr.skip()] * count, html.note(self.studio.told(error), "bad"))

    def _once(self, function: Callable, count: int) -> Callable:
        @functools.wraps(function)
        def run(*given: Any) -> Any:
            try:
                return _as_gradio(function(*given))
            except UserError as error:
                return _as_gradio(self._refused(error, count))

        return run

    def _stream(self, function: Callable, count: int) -> Callable:
        @functools.wraps(function)
        def run(*given: Any) -> Any:
            try:
                yield from map(_as_gradio, function(*given))
            except UserError as error:
                yield _as_gradio(self._refused(error, count))

        return run


def _as_gradio(values: tuple) -> Any:
    """Where there is one output alone, Gradio takes its value as it is."""
    return values[0] if len(values) == 1 else values


def acted(event: gr.EventData) -> tuple[str, str]:
    """(act, id) of a click on a piece; whatever else was sent is nothing."""
    data = event._data if isinstance(event._data, dict) else {}
    act, ident = data.get("act"), data.get("id")
    return (act, ident) if isinstance(act, str) and isinstance(ident, str) else ("", "")
