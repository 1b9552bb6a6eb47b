"""What the studio's second process does: holds the base model, draws, opens files from elsewhere, exports, pushes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from .cells import AT_LOADING, FILES

_models: dict[str, Any] = {}  # one at a time: by what it was loaded with
_attached: dict[str, tuple] = {}


def enter(folder: str) -> None:
    """In the project's folder, files go by relative names, in settings and in what is written into images."""
    os.chdir(folder)
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")


def warm(preset: str, settings: Mapping[str, Any]) -> list[str]:
    """Load the base model. -> nothing, once it is there. Raises UserError."""
    _model(preset, settings)
    return []


def tokens(preset: str, settings: Mapping[str, Any], word: str) -> list[str]:
    """The word as the base model's first tokenizer cuts it. Raises UserError."""
    return list(_model(preset, settings).pipe.tokenizer.tokenize(word))


def draw(
    preset: str, base: Mapping[str, Any], cell: str, prompt: str, seed: int, settings: Mapping[str, Any]
) -> None:
    """One image into its cell, with all that it was drawn with in its text. Raises UserError."""
    from ...config.resolve import resolve
    from ...config.sampling import DrawnWith
    from ...sampling.sample import drawn_with, save_png

    model = _model(preset, base)
    files = {name: settings.get(name) for name in FILES}
    stamp = tuple((name, path, os.stat(path).st_mtime_ns) for name, path in files.items() if path)
    if _attached.get("files") != stamp:
        _attached.clear()
        model.attach(**files)
        _attached["files"] = stamp
    given = {name: value for name, value in settings.items() if name not in AT_LOADING}
    (image,) = model.draw(prompt, seed, **given)
    config = resolve(DrawnWith, preset, None, **{**base, **settings})
    save_png(Path(cell), image, {"prompt": prompt, "seed": str(seed), **drawn_with(config)})


def examine(path: str) -> dict[str, Any]:
    """What a file from elsewhere is: kind, trigger words, metadata. Raises UserError for all that b4m refuses."""
    from ...files.lora import triggers
    from ...files.opening import open_any

    opened = open_any(path)
    if opened.kind == "method":
        raise UserError(
            f"a file of the method {opened.method}: only concept files and LoRA files can be taken in"
        )
    words = [word for word in triggers(opened.metadata) if word.isprintable()]
    return {
        "kind": opened.role,
        "two_dials": opened.kind in ("content", "style", "fused"),
        "triggers": words[:4],
        "trigger": opened.metadata.get("b4m.trigger", ""),
        "metadata": dict(opened.metadata),
    }


def export(settings: Mapping[str, Any], preset: str) -> str:
    """`b4m export`. -> the file. Raises UserError."""
    from ..api import export as run_export

    return str(run_export(preset=preset, **settings))


def push(settings: Mapping[str, Any]) -> str:
    """`b4m push`. -> where it lies. Raises UserError."""
    from ..push.push import push as run_push
    from ..push.settings import PushConfig

    return run_push(PushConfig(**settings))


def doctor(settings: Mapping[str, Any]) -> list[tuple[bool | None, str]]:
    """`b4m doctor`'s findings: (good, text)."""
    from ..doctor import DoctorConfig
    from ..doctor import examine as look
    from ..quiet import quiet

    return [(finding.good, finding.text) for finding in look(DoctorConfig(**settings), quiet)]


def _model(preset: str, settings: Mapping[str, Any]) -> Any:
    """The base model of `b4m.load`, kept: a second one takes its place."""
    from ..quiet import quiet

    name = repr((preset, sorted(settings.items())))
    if name not in _models:
        quiet()  # before the libraries are imported
        from ..api import load

        _models.clear()
        _attached.clear()
        _models[name] = load(preset=preset, **settings)
    return _models[name]
