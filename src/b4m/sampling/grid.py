"""Images side by side, with labels."""

import math
from collections.abc import Sequence
from typing import cast

from PIL import Image, ImageDraw, ImageFont


def grid(
    images: Sequence[Image.Image],
    columns: int,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Pictures of one size, row by row, with labels left and above; small ones are enlarged to be seen."""
    if not images or len(images) % columns:
        raise ValueError(f"{len(images)} pictures do not fill rows of {columns}")
    cell = max(128, images[0].width)
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=max(14, cell // 11)))
    left = cell if row_labels else 0
    lines = [_wrap(label, font, cell - 8) for label in column_labels]
    line_height = math.ceil(font.size * 1.25)
    top = line_height * max((len(line) for line in lines), default=0) + (8 if lines else 0)
    rows = len(images) // columns
    sheet = Image.new("RGB", (left + columns * (cell + 4), top + rows * (cell + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        enlarged = image.resize(
            (cell, cell), Image.Resampling.NEAREST if cell % image.width == 0 else Image.Resampling.LANCZOS
        )
        sheet.paste(enlarged, (left + column * (cell + 4), top + row * (cell + 4)))
    for column, text in enumerate(lines):
        draw.multiline_text((left + column * (cell + 4) + 4, 4), "\n".join(text), fill="black", font=font)
    for row, label in enumerate(row_labels):
        text = "\n".join(_wrap(label, font, cell - 8))
        draw.multiline_text((4, top + row * (cell + 4) + 4), text, fill="black", font=font)
    return sheet


def _wrap(label: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The label in lines that fit into `width` pixels; a word that is too long stands alone."""
    lines = [""]
    for word in label.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
