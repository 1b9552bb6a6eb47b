"""Every setting of a training, made from its settings class: what Advanced shows, searched by flag, and reads back."""

import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ...config.fields import PATHS, OutputPath, convert, flag, is_path
from ...config.presets import PRESETS
from ...config.resolve import presets_of
from ...config.training import TrainConfig
from ...core.errors import UserError

# What the form and the project decide, or what would leave the project's folder.
DECIDED = frozenset(
    "output_dir content_dir style_dir content_trigger style_trigger content_class style_class partner_dirs "
    "partner_prompts content_file style_file base_model vae mixed_precision shard".split()
)

BETWEEN = ";"  # values of a setting that takes several


@dataclass(frozen=True)
class Row:
    """One setting. choices: the texts that it may be, if they are few."""

    name: str
    flag: str
    doc: str
    default: str
    choices: tuple[str, ...] = ()


def rows(job: type[TrainConfig], preset: str) -> list[Row]:
    """The settings of `job` that the form does not decide, with the defaults of `preset`."""
    hints, preset_values = typing.get_type_hints(job), {}
    for row in presets_of(job):
        preset_values |= PRESETS[preset].get(row, {})
    found = []
    for f in fields(job):
        if f.name in DECIDED or is_path(hints[f.name], *PATHS):
            continue
        # The length that was chosen says how many steps, and how often to look, unless a number stands here.
        default = None if f.name in ("steps", "preview_every") else preset_values.get(f.name, f.default)
        choices = tuple(map(str, f.metadata["choices"])) or (("yes", "no") if hints[f.name] is bool else ())
        several = f" (several: with {BETWEEN} between)" if typing.get_origin(hints[f.name]) is tuple else ""
        found.append(Row(f.name, flag(f.name), f.metadata["doc"] + several, _text(default), choices))
    return found


def read(job: type[TrainConfig], preset: str, typed: Mapping[str, str]) -> dict[str, Any]:
    """What was changed, as settings. Raises UserError, by the flag, for a value that is none."""
    hints = typing.get_type_hints(job)
    known = {row.name: row for row in rows(job, preset)}
    changed = {}
    for name, text in typed.items():
        if name not in known:
            raise UserError(f"{flag(str(name)[:40])}: no setting that can be changed here")
        text = str(text).strip()
        if text and text != known[name].default:
            changed[name] = _value(name, hints[name], text)
    return changed


def _value(name: str, hint: Any, text: str) -> Any:
    if hint is bool:
        if text not in ("yes", "no"):
            raise UserError(f"{flag(name)} {text!r}: yes or no")
        return text == "yes"
    if is_path(hint, OutputPath):
        raise UserError(f"{flag(name)}: no setting that can be changed here")
    if typing.get_origin(hint) is tuple:
        return convert(name, hint, [part.strip() for part in text.split(BETWEEN) if part.strip()])
    return convert(name, hint, text)


def _text(value: Any) -> str:
    if value is None or value is MISSING or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{BETWEEN} ".join(map(str, value)) if isinstance(value, tuple) else str(value)
