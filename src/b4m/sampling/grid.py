"""Images side by side, with labels."""

import math
from collections.abc import Sequence
from typing import cast

from PIL import Image, ImageDraw, ImageFont

SMALLEST = 128  # pixels of a cell's width
GAP = 4  # pixels between cells


def grid(
    images: Sequence[Image.Image],
    columns: int,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Images of one size, row by row, with labels left and above; small ones are enlarged to be seen."""
    if not images or len(images) % columns:
        raise ValueError(f"{len(images)} images do not fill rows of {columns}")
    width = max(SMALLEST, images[0].width)
    height = round(images[0].height * width / images[0].width)
    font = cast(ImageFont.FreeTypeFont, ImageFont.load_default(size=max(14, width // 11)))
    left = width if row_labels else 0
    lines = [_wrap(label, font, width - 8) for label in column_labels]
    line_height = math.ceil(font.size * 1.25)
    top = line_height * max((len(line) for line in lines), default=0) + (8 if lines else 0)
    rows = len(images) // columns
    sheet = Image.new("RGB", (left + columns * (width + GAP), top + rows * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        whole = width % image.width == 0
        enlarged = image.resize(
            (width, height), Image.Resampling.NEAREST if whole else Image.Resampling.LANCZOS
        )
        sheet.paste(enlarged, (left + column * (width + GAP), top + row * (height + GAP)))
    for column, text in enumerate(lines):
        draw.multiline_text((left + column * (width + GAP) + 4, 4), "\n".join(text), fill="black", font=font)
    for row, label in enumerate(row_labels):
        text = "\n".join(_wrap(label, font, width - 8))
        draw.multiline_text((4, top + row * (height + GAP) + 4), text, fill="black", font=font)
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
