"""The page: its tabs, and the offer of an example where there is nothing yet."""

import gradio as gr

from . import example, html, tab_compare, tab_export, tab_library, tab_mix, tab_teach
from .events import Wiring
from .studio import Studio
from .welcome import masthead

TABS = (tab_teach, tab_library, tab_mix, tab_compare, tab_export)
OFFER = (
    "An empty project. The example teaches a car and a watercolour style in a minute or two, so that every tab has "
    "something to show; it can be deleted like anything else."
)


def build(studio: Studio) -> gr.Blocks:
    """The whole page of one studio."""
    with gr.Blocks(title="B4M studio", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(masthead(studio.project), apply_default_css=False)
        with gr.Row(visible=example.is_empty(studio.project), equal_height=True) as offer:
            gr.HTML(html.note(OFFER), apply_default_css=False)
            begin = gr.Button(
                "Open the example", variant="primary", scale=0, min_width=190, elem_id="example"
            )
        status = gr.HTML(apply_default_css=False)
        with gr.Tabs(elem_id="tabs") as tabs:
            for tab in TABS:
                tab.build(studio, blocks)

        def open_example() -> tuple:
            if example.is_empty(studio.project):
                example.begin(studio.project)
            told = "The example is being taught: watch it on Teach, then turn to Mix."
            return gr.update(visible=False), html.note(told, "busy")

        def opened() -> tuple:
            return gr.update(visible=example.is_empty(studio.project)), ""

        wiring = Wiring(studio, status)
        wiring.on(begin.click, open_example, outputs=[offer])
        wiring.on([blocks.load, tabs.change], opened, outputs=[offer])
    return blocks
