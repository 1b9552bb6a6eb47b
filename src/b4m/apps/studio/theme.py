"""How the page looks: one style sheet over Gradio's base theme; system fonts, so that nothing is fetched."""

from pathlib import Path
from typing import Any

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def theme() -> Any:
    import gradio as gr

    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=list(map(gr.themes.Font, FONTS)),
        font_mono=list(map(gr.themes.Font, MONO)),
    ).set(
        body_background_fill="*neutral_50",
        block_background_fill="white",
        block_border_color="*neutral_200",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        body_text_color="*neutral_900",
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        input_background_fill="white",
        input_border_color="*neutral_400",
        input_border_width="1px",
        checkbox_border_color="*neutral_500",
        button_secondary_background_fill="white",
        button_secondary_border_color="*neutral_300",
        button_border_width="1px",
        checkbox_background_color_selected="*primary_700",
        checkbox_label_background_fill="white",
        checkbox_label_background_fill_selected="*primary_50",
        slider_color="*primary_700",
    )


CSS = Path(__file__).with_name("studio.css").read_text(encoding="utf-8")
