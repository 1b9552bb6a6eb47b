"""The model card of a folder of concepts: which files there are, and how a content and a style are put together."""

import shlex
from collections.abc import Sequence

from .about import About
from .card import METHOD, base, based_flags, code, front, model_flags, no_comfy, scored
from .pictures import Picture
from .project import Member


def project_card(
    found: Sequence[Member],
    repo: str,
    license: str,
    images: Sequence[Picture] = (),
    scores: Sequence[tuple[str, Sequence[str]]] = (),
) -> str:
    """The whole of README.md."""
    first = found[0].about
    triggers = dict.fromkeys(word for one in found for word in one.about.triggers)
    whole = not any(one.about.concept for one in found)
    parts = [
        front(first, license, images, triggers, whole),
        f"# {code(repo.partition('/')[2])}",
        "<Gallery />" if images else "",
        _what(found),
        base(first),
        _table(found),
        scored(scores),
        _loading(found, repo),
        f"## Licence\n\n{code(license)}, chosen by who published these files.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(found: Sequence[Member]) -> str:
    kinds = [one.about.kind for one in found]
    told = [
        f"{kinds.count(kind)} {kind if kind == 'LoRA' else kind + ' file'}{'s' if kinds.count(kind) > 1 else ''}"
        for kind in dict.fromkeys(kinds)
    ]
    pairs = kinds.count("content") * kinds.count("style")
    made = f" Every content goes with every style of the same settings: {pairs} pairs." if pairs else ""
    return f"{', '.join(told)} of {METHOD}.{made}"


def _table(found: Sequence[Member]) -> str:
    rows = [("file", "kind", "trigger words", "prompts of the training", "settings")]
    for one in found:
        seen = one.about
        settings = ", ".join(f"{key} {value}" for key, value in seen.settings.items())
        rows.append((one.name, seen.kind, ", ".join(seen.triggers), "; ".join(seen.prompts), settings))
    lines = [[_cell(cell) for cell in row] for row in rows[1:]]
    table = [rows[0], ["---"] * len(rows[0]), *lines]
    return "## Files\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in table)


def _cell(text: str) -> str:
    """A code span; a bar would end the cell even there."""
    return code(text).replace("|", "\\|") if text else ""


def _loading(found: Sequence[Member], repo: str) -> str:
    """With b4m; and as one LoRA for everything else."""
    chosen = [next((one for one in found if one.about.kind == kind), None) for kind in ("content", "style")]
    concepts = [one for one in chosen if one]
    shown = concepts or [found[0]]
    files = " ".join(f"--{_flag(one.about)}-file {one.name}" for one in shown)
    first = shown[0].about
    get = f"hf download {repo} {' '.join(one.name for one in shown)} --local-dir ."
    draw = f"b4m generate {files}{model_flags(first)} --prompts {shlex.quote(_prompt(shown))}"
    dialect = "diffusers" if first.embedded else "kohya-original"
    export = f"b4m export {files} --output lora.safetensors --dialect {dialect}{based_flags(first)}"
    usable = (
        "Diffusers" if first.embedded else "Diffusers (`--dialect diffusers`), ComfyUI and A1111 (as below)"
    )
    return (
        f"## How to load them\n\nWith b4m, for example:\n\n```bash\n{get}\n{draw}\n```\n\n"
        f"For {usable}, as one LoRA:\n\n```bash\n{export}\n```" + no_comfy(first)
    )


def _flag(seen: About) -> str:
    return seen.kind if seen.concept else "lora"


def _prompt(shown: Sequence[Member]) -> str:
    """The content's prompt in the style's words."""
    said = [next(iter(one.about.prompts + one.about.triggers), "a photo") for one in shown]
    return f"{said[0]} in {said[1].partition(' in ')[2]}" if len(said) == 2 and " in " in said[1] else said[0]
