"""The gallery of a library: one folder of HTML and images that opens from a USB stick, without a server."""

import json
from collections.abc import Iterable, Sequence
from html import escape
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from ..config.fields import sides
from ..core.storage import write_atomic, write_text
from ..data.identity import file_hash
from ..data.images import open_pictures, picture_files
from ..evaluation.report import ALIGNMENTS
from .build import Library
from .index import Entry
from .plan import Plan

PAGE = Path(__file__).parent / "page"
SIDE, REFERENCE = 768, 192  # pixels of the longer side of an image and of a reference, at most
SMALL = 128  # images up to this side are kept without loss and shown with their pixels


def write_gallery(folder: Path, library: Library, plan: Plan, entries: Sequence[Entry]) -> Path:
    """index.html and its images, those of an earlier library that are shown no more taken away. -> index.html."""
    study = plan.study
    files = {entry.asked.file: _shown(folder, entry) for entry in entries}
    references = {path: _reference(folder, path) for path in (*study.contents, *study.styles)}
    data = _data(library, plan, entries, files)
    values = {
        "title": escape(study.title),
        "summary": f"{len(study.contents)} contents x {len(study.styles)} styles, {len(files)} images",
        "choices": _choices(data),
        "styles": "\n".join(_head(study.word(path), references[path], "col") for path in study.styles),
        "rows": "\n".join(_rows(plan, data, references)),
        "data": json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
        **{name: (PAGE / f"page.{name}").read_text(encoding="utf-8") for name in ("css", "js")},
    }
    template = Template((PAGE / "page.html").read_text(encoding="utf-8"))
    write_text(folder / "index.html", template.substitute(values))
    _keep_only(folder, {*files.values(), *references.values()})
    return folder / "index.html"


def _data(library: Library, plan: Plan, entries: Sequence[Entry], files: dict[Path, str]) -> dict[str, Any]:
    """All that the page knows. Images in the order of page.js: pair, method, prompt, dial, seed."""
    study, own = plan.study, library.own
    found = {
        (e.drawing.content, e.drawing.style, e.drawing.row, e.asked.number, e.asked.seed): e for e in entries
    }
    rows = {look: row for row, look in library.looks.items()}
    pairs = list(product(study.contents, study.styles))
    order = product(pairs, own.methods, range(len(study.prompts)), own.dials, study.seeds)
    listed = [found[*pair, rows[method, dial], number, seed] for pair, method, number, dial, seed in order]
    return {
        "contents": [study.word(path) for path in study.contents],
        "styles": [study.word(path) for path in study.styles],
        "methods": list(own.methods),
        "prompts": list(study.prompts),
        "dials": list(own.dials),
        "seeds": list(study.seeds),
        "texts": [prompt.format(**study.words(*pair)) for pair in pairs for prompt in study.prompts],
        "images": [{"file": files[e.asked.file], "scores": _scores(e)} for e in listed],
    }


def _scores(entry: Entry) -> dict[str, float]:
    return {
        title: round(entry.scores[name], 3)
        for name, title in ALIGNMENTS.items()
        if entry.scores.get(name) is not None
    }


def _choices(data: dict[str, Any]) -> str:
    """A field for each thing that there are several of; the dials, first, begin at their middle position."""
    middle = len(data["dials"]) // 2
    dials = "".join(
        f'<label><input type="radio" name="dial" value="{n}"{" checked" * (n == middle)}> {escape(dial)}</label>'
        for n, dial in enumerate(data["dials"])
    )
    fields = [f"<fieldset><legend>Dials</legend>{dials}</fieldset>"] if len(data["dials"]) > 1 else []
    for name in ("prompt", "seed", "method"):
        if len(listed := data[f"{name}s"]) > 1:
            options = "".join(
                f'<option value="{n}">{escape(str(each))}</option>' for n, each in enumerate(listed)
            )
            fields.append(f'<label>{name.title()}<select name="{name}">{options}</select></label>')
    return "\n".join(fields)


def _head(word: str, reference: str, scope: str) -> str:
    return f'<th scope="{scope}"><img src="{escape(reference)}" alt="" loading="lazy">{escape(word)}</th>'


def _rows(plan: Plan, data: dict[str, Any], references: dict[str, str]) -> Iterable[str]:
    """A table row for each content: what is seen before a script runs, and without one."""
    study, styles = plan.study, data["styles"]
    each = len(data["images"]) // (len(data["contents"]) * len(styles))  # images of a pair
    first = len(data["dials"]) // 2 * len(data["seeds"])  # of them: the first prompt's at the middle position
    small = max(max(sides(d.config.size)) for d in plan.drawings) <= SMALL
    for down, (path, content) in enumerate(zip(study.contents, data["contents"], strict=True)):
        cells = []
        for right, style in enumerate(styles):
            file = data["images"][(down * len(styles) + right) * each + first]["file"]
            alt = escape(f"{content} in {style}")
            look = ' class="small"' * small
            cells.append(
                f'<td><button><img{look} src="{escape(file)}" alt="{alt}" loading="lazy"></button></td>'
            )
        yield f"<tr>{_head(content, references[path], 'row')}{''.join(cells)}</tr>"


def _shown(folder: Path, entry: Entry) -> str:
    """The image as the page shows it, written once: its place in the library says what it was drawn with."""
    file = entry.asked.file
    name = f"images/{file.parent.name}/{file.stem}.webp"
    if not (folder / name).exists():
        _write(folder / name, open_pictures(file)[0], SIDE)
    return name


def _reference(folder: Path, path: str) -> str:
    """The first image of a content or a style."""
    file = picture_files(path)[0]
    name = f"references/{file_hash(file)[:16]}.webp"
    if not (folder / name).exists():
        _write(folder / name, open_pictures(file)[0], REFERENCE)
    return name


def _write(path: Path, image: Image.Image, side: int) -> None:
    """Small images keep every pixel."""
    lossless = max(image.size) <= SMALL
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    write_atomic(path, lambda partial: image.save(partial, "WEBP", lossless=lossless, quality=85))


def _keep_only(folder: Path, names: set[str]) -> None:
    """Take away images that the page does not show, from folders of its own."""
    for place in ("images", "references"):
        for path in (folder / place).rglob("*.webp"):
            if path.relative_to(folder).as_posix() not in names:
                path.unlink(missing_ok=True)
