"""Pieces of the page as HTML: cards, sheets, progress. Every text from outside goes through `escape`."""

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from .cells import Shot, key
from .doctoring import Line
from .jobs import Progress
from .library import Concept, facts, file_of, picture, ready
from .plain import name_of_model, seconds
from .project import Project
from .references import Reference
from .sheet import Sheet
from .words import Advice

KIND = {"content": "content", "style": "style", "lora": "fused"}
MARKS = {True: "good", False: "bad", None: "note"}


def note(text: str, kind: str = "note") -> str:
    """One line that says how something went. kind: good, note, bad, busy."""
    return f'<p class="note {kind}" role="status">{escape(text)}</p>' if text else ""


def advice(found: Advice) -> str:
    return note(found.text, MARKS[found.good])


def button(act: str, ident: str, text: str, label: str = "", look: str = "") -> str:
    """What the page's script turns into an event. label: for those who do not see where it stands."""
    spoken = f' aria-label="{escape(label)}"' if label else ""
    return (
        f'<button type="button" class="act {look}" data-act="{escape(act)}" data-id="{escape(ident)}"{spoken}>'
        f"{escape(text)}</button>"
    )


def empty(title: str, text: str) -> str:
    return f'<div class="empty"><strong>{escape(title)}</strong><p>{escape(text)}</p></div>'


def desk(
    kind: str, kept: Sequence[Reference], refused: Iterable[Reference] = (), cut: Iterable[str] = ()
) -> str:
    """The images of the form, and beside those that were not taken what is wrong with them."""
    look = escape("-".join(cut))
    tiles = [
        f'<figure class="tile"><img src="/studio/desk/{kind}/{escape(one.file)}?{look}" alt="{escape(one.name)}, '
        f'as a training sees it"><figcaption title="{escape(one.name)}"><b>{escape(one.name)}</b> '
        f"{escape(one.note)}</figcaption>{button('drop', one.file, '×', f'take {one.name} away', 'corner')}</figure>"
        for one in kept
    ]
    tiles += [
        f'<figure class="tile refused"><div class="cross" aria-hidden="true">!</div><figcaption>'
        f"<b>{escape(one.name)}</b> {escape(one.problem)}</figcaption></figure>"
        for one in refused
    ]
    if not tiles:
        return ""
    count = f"{len(kept)} image{'s' if len(kept) != 1 else ''}, shown as a training sees them"
    return f'<p class="caption">{count}</p><div class="tiles">{"".join(tiles)}</div>'


def cards(
    project: Project,
    found: Sequence[Concept],
    states: Mapping[str, Progress],
    chosen: str = "",
    against: Mapping[str, str] | None = None,
    live: bool = True,
) -> str:
    """The library. against: why a card does not go with the chosen one. live: with buttons."""
    if not found:
        return empty("Nothing taught yet", "Teach a content or a style, take in a file, or open the example.")
    made = (_card(project, one, states, chosen, against or {}, live) for one in found)
    return f'<div class="cards">{"".join(made)}</div>'


def _card(
    project: Project,
    one: Concept,
    states: Mapping[str, Progress],
    chosen: str,
    against: Mapping[str, str],
    live: bool,
) -> str:
    known, why = facts(project, one), against.get(one.ident, "")
    state = states.get(one.ident)
    told = [
        f"<span>{escape(one.words or 'no trigger word')}</span>",
        f"<span>{escape(name_of_model(known.get('base_model', project.base.model)))}"
        f"{' · ' + escape(known['steps']) + ' steps' if 'steps' in known else ''}</span>",
        f"<span>{time.strftime('%d %b %Y', time.localtime(one.created))}{_size(project, one)}</span>",
    ]
    badge = (
        ""
        if ready(project, one)
        else f'<span class="badge">{escape(state.state if state else "no file")}</span>'
    )
    seen = picture(project, one)
    sample = ' class="sample"' if seen and seen.parent.name == "previews" else ""
    image = (
        f'<img{sample} src="/studio/concept/{one.ident}?{state.step if state else 0}" alt="" loading="lazy">'
        if seen
        else '<span class="blank" aria-hidden="true"></span>'
    )
    body = (
        f'<span class="frame">{image}{badge}</span><span class="about"><strong>{escape(one.name)}</strong>'
        f'<em class="kind {one.kind}">{KIND[one.kind]}</em>{"".join(told)}'
        f"{f'<span class=why>{escape(why)}</span>' if why else ''}</span>"
    )
    classes = f"card {one.kind}{' chosen' if one.ident == chosen else ''}{' greyed' if why else ''}"
    if not live:
        return f'<div class="{classes}">{body}</div>'
    pressed = "true" if one.ident == chosen else "false"
    return (
        f'<button type="button" class="{classes}" data-act="choose" data-id="{one.ident}" '
        f'aria-pressed="{pressed}">{body}</button>'
    )


def _size(project: Project, one: Concept) -> str:
    path = file_of(project, one)
    return f" · {path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""


def trainings(project: Project, found: Sequence[tuple[Concept, Progress]]) -> str:
    """What runs, waits or has ended, the newest first."""
    if not found:
        return empty("No training yet", "Drop images on the left, give them a name, and press Start.")
    return "".join(_training(concept, progress) for concept, progress in found)


def _training(concept: Concept, progress: Progress) -> str:
    job = progress.job
    share = 100 * progress.step / max(1, job.steps)
    left = "" if progress.seconds_left is None else f", about {seconds(progress.seconds_left)} left"
    loss = f", loss {progress.losses[-1]:.3f}" if progress.losses else ""
    told = {
        "queued": "waits for its turn",
        "running": f"step {progress.step} of {job.steps}{loss}{left}",
        "done": f"done: {job.steps} steps{loss}",
        "stopped": f"stopped at step {progress.step} of {job.steps}",
        "failed": f"failed at step {progress.step}",
        "crashed": f"crashed at step {progress.step}",
    }[progress.state]
    acts = ""
    if not progress.ended:
        acts = button("stop", job.ident, "Stop", f"stop the training of {concept.name} after this step")
    elif progress.may_continue:
        acts = button("continue", job.ident, "Continue", f"continue the training of {concept.name}", "strong")
    strip = "".join(
        f'<figure><span class="inside"><img src="/studio/preview/{job.ident}/{step}" alt="sample after step {step}" '
        f'loading="lazy"></span><figcaption>{step}</figcaption></figure>'
        for step in progress.previews[-8:]
    )
    return (
        f'<section class="training {progress.state}" aria-label="training of {escape(concept.name)}">'
        f'<header><strong>{escape(concept.name)}</strong><em class="kind {concept.kind}">{KIND[concept.kind]}</em>'
        f'<span class="spacer"></span>{acts}</header>'
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}" '
        f'aria-label="progress of {escape(concept.name)}"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="caption">{escape(told)}</p>{_curve(progress.losses)}'
        f"{note(progress.message, 'bad' if progress.may_continue else 'note') if progress.message else ''}"
        f'<div class="strip">{strip}</div></section>'
    )


def _curve(losses: Sequence[float]) -> str:
    """The loss as a line; nothing before there are a few points."""
    if len(losses) < 4:
        return ""
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0
    points = " ".join(
        f"{300 * index / (len(losses) - 1):.1f},{38 - 34 * (loss - low) / span:.1f}"
        for index, loss in enumerate(losses)
    )
    return (
        f'<svg class="curve" viewBox="0 0 300 42" preserveAspectRatio="none" role="img" aria-label="loss from '
        f'{losses[0]:.3f} to {losses[-1]:.3f}"><polyline points="{points}"/></svg>'
    )


def sheet_table(project: Project, sheet: Sheet, chosen: str = "") -> str:
    """Labelled axes, a button a cell; cells that are not drawn yet are empty frames."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in sheet.columns)
    rows = []
    for label, places in zip(sheet.rows, sheet.places, strict=True):
        cells = "".join(_place(project, place, chosen) for place in places)
        rows.append(f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>')
    return (
        f'<div class="sheet" tabindex="0" aria-label="{escape(sheet.title)}"><table><caption>{escape(sheet.title)}'
        f'</caption><thead><tr><td class="corner"><span>{escape(sheet.down)} ↓</span><span>{escape(sheet.across)} →'
        f"</span></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _place(project: Project, place: Shot | str, chosen: str) -> str:
    if not isinstance(place, Shot):
        return f'<td class="nothing">{escape(place)}</td>'
    name = key(project, place)
    if not project.cell(name).is_file():
        return '<td><div class="blank waiting" aria-label="not drawn yet"></div></td>'
    pressed = "true" if name == chosen else "false"
    label = f"{place.prompt}, seed {place.seed}"
    return (
        f'<td><button type="button" class="cell" data-act="open" data-id="{name}" aria-pressed="{pressed}" '
        f'aria-label="open: {escape(label)}"><img src="/studio/cell/{name}" alt="{escape(label)}"></button></td>'
    )


def big(name: str, alt: str) -> str:
    return f'<img class="big" src="/studio/cell/{name}" alt="{escape(alt)}">'


def table(values: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th scope=row>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in values.items())
    return f'<table class="facts"><tbody>{rows}</tbody></table>'


def compared(one: str, other: str, labels: tuple[str, str], slider: bool) -> str:
    """Two cells side by side, or under a slider that a keyboard moves, too."""
    named = [escape(label) for label in labels]
    images = [
        f'<img src="/studio/cell/{name}" alt="{label}">'
        for name, label in zip((one, other), named, strict=True)
    ]
    if not slider:
        return (
            '<div class="beside">'
            + "".join(
                f"<figure>{image}<figcaption>{label}</figcaption></figure>"
                for image, label in zip(images, named, strict=True)
            )
            + "</div>"
        )
    return (
        f'<div class="wipe" style="--cut:50%"><div class="stack">{images[0]}<div class="over">{images[1]}</div></div>'
        f'<label class="caption"><span>{named[0]}</span><input type="range" min="0" max="100" value="50" '
        f'aria-label="how much of {named[0]} is seen" '
        "oninput=\"this.closest('.wipe').style.setProperty('--cut', this.value + '%')\">"
        f"<span>{named[1]}</span></label></div>"
    )


def exports(found: Sequence[tuple[str, int]]) -> str:
    """(name, bytes) of what was exported."""
    if not found:
        return empty("Nothing exported yet", "Choose a content, a style or a fused file, and press Export.")
    rows = "".join(
        f'<tr><td><a href="/studio/export/{escape(name)}" download>{escape(name)}</a></td>'
        f"<td>{size / 1e6:.2f} MB</td></tr>"
        for name, size in found
    )
    return f'<table class="facts exports"><tbody>{rows}</tbody></table>'


def findings(lines: Sequence[Line]) -> str:
    return "".join(note(line.text, MARKS[line.good]) for line in lines)
