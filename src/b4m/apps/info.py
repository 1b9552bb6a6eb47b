"""What a file is, for `b4m info`."""

from collections.abc import Mapping
from pathlib import Path

from ..core.errors import UserError, printable
from ..core.storage import read_tensors
from ..files.identity import foreign
from ..files.lora import triggers
from ..files.opening import Opened, file_in, open_any
from ..training.state import load_state


def describe(path: Path | str) -> dict[str, object]:
    """What a file or folder is, verified: for `b4m info`. Raises UserError for what is nothing that is known.

    A concept file, a LoRA or a relative of one, also in a folder of peft or Diffusers; a file of a method; what b4m has
    no use for, by its name; a folder of training states.
    """
    file = file_in(Path(path))
    if file.is_dir():
        state = load_state(file)
        if state is None:
            raise UserError(
                f"{printable(path)}: no training state or LoRA in this folder; give a file or a state folder"
            )
        return {"file": printable(path), "type": "training state", "step": state[0], "tensors": len(state[1])}
    try:
        opened = open_any(file)
    except UserError:
        tensors, metadata = read_tensors(file)
        ours = any(key.startswith("b4m.") for key in metadata)
        if ours or (what := foreign(tensors, tensors)) is None:
            raise
        facts = {"type": what, "b4m": "has no use for it", "tensors": len(tensors)}
    else:
        tensors, metadata, facts = opened.tensors, opened.metadata, _facts(opened)
    values = sum(tensor.numel() for tensor in tensors.values())
    size = {"file": printable(file), "bytes": file.stat().st_size, "values": values}
    return {**size, **facts, **_plain(metadata)}


def _facts(opened: Opened) -> dict[str, object]:
    if opened.concept:
        return {"type": f"{opened.kind} concept", "tensors": len(opened.tensors)}
    if opened.dialects:
        return {
            "type": "LoRA" if opened.layers and not opened.contents.others else opened.kind,
            **_lora(opened),
        }
    return {"type": f"file of the method {_short(opened.method)}", "tensors": len(opened.tensors)}


def _lora(opened: Opened) -> dict[str, object]:
    matrices = [tensor for tensor in opened.tensors.values() if tensor.dim() > 1]
    contents = opened.contents
    facts = {
        "made for": " or ".join(contents.made_for) or "no published Stable Diffusion model",
        "dialect": ", ".join(opened.dialects),
        "adapted layers": len(contents.sizes),
        "ranks": contents.ranks,
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in matrices}),
        "trigger words": ", ".join(map(_short, triggers(opened.metadata))) or "not named",
    }
    return {**facts, **({"note": "; ".join(contents.notes)} if contents.notes else {})}


def _plain(metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        _short(key.removeprefix("b4m.")): _short(metadata[key]) for key in sorted(metadata) if key != "format"
    }


def _short(text: str) -> str:
    """What a stranger wrote, fit for a terminal: one line, and not the thousands of tags of some headers."""
    line = text if text.isprintable() else ascii(text)
    return line if len(line) <= 200 else f"{line[:200]}... ({len(text)} characters)"
