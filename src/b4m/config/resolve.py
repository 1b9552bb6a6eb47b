"""How the settings of a job add up: dataclass, preset, file and flags."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .fields import flag, read_yaml
from .foreign import answer
from .presets import DEFAULT, PRESETS


def resolve(
    cls: type, preset: str | None = None, settings_file: str | Path | None = None, **flags: Any
) -> Any:
    """Settings of class `cls` from, in rising order: the dataclass, the preset, the YAML file, the flags.

    preset None: the file's, else `embedded`, which goes with the embedded base alone: with another base model a
    preset must be named. Raises UserError.
    """
    given = read_yaml(settings_file) if settings_file is not None else {}
    in_file = given.pop("preset", None) if presets_of(cls) else None
    known = {f.name for f in fields(cls)}
    for key in [*given, *flags]:
        if key not in known:
            where = settings_file if key in given else "settings"
            said = answer(key, known) or f"known: {', '.join(sorted(known))}"
            raise UserError(f"{where}: unknown setting {key!r}; {said}")
    given = {**given, **flags}
    given = {**_row(cls, _chosen(cls, preset or in_file, given)), **given}
    for f in fields(cls):
        if f.default is MISSING and f.default_factory is MISSING and f.name not in given:
            raise UserError(f"{flag(f.name)} is missing ({f.metadata['doc']})")
    return cls(**given)


def presets_of(cls: type) -> tuple[str, ...]:
    """Which rows of a preset fill settings of class `cls`, later ones over earlier ones; none for most classes."""
    return tuple(row for base in reversed(cls.__mro__) for row in vars(base).get("preset_rows", ()))


def _chosen(cls: type, preset: str | None, given: Mapping[str, Any]) -> str:
    """The preset's name, checked. It may be left out where it would say nothing that does not suit the base model."""
    row = _row(cls, DEFAULT)
    other = given.get("base_model", row.get("base_model")) != row.get("base_model")
    if preset is None and other and row.keys() - given.keys():
        raise UserError(
            f"--base-model {given['base_model']}: say with --preset which settings go with it (sdxl: the published "
            "ones; embedded: those of the small base that comes with b4m)"
        )
    preset = preset or DEFAULT
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UserError(f"--preset {preset!r}: choose one of {', '.join(PRESETS)}")
    return preset


def _row(cls: type, preset: str) -> dict[str, Any]:
    """The preset's rows, and over them what the settings class says of the preset itself (`own_presets`)."""
    known = {f.name for f in fields(cls)}
    rows = [PRESETS[preset].get(row, {}) for row in presets_of(cls)]
    rows += [vars(base).get("own_presets", {}).get(preset, {}) for base in reversed(cls.__mro__)]
    return {name: value for row in rows for name, value in row.items() if name in known}
