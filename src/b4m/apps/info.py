"""What a file is, for `b4m info`."""

from collections.abc import Mapping
from pathlib import Path

from ..core.errors import UserError, printable
from ..files.lora import triggers
from ..files.opening import Opened, open_any
from ..training.state import load_state


def describe(path: Path | str) -> dict[str, object]:
    """What a concept file, a LoRA file or a folder of training states is, verified: for `b4m info`."""
    path = Path(path)
    if path.is_dir():
        state = load_state(path)
        if state is None:
            raise UserError(
                f"{printable(path)}: no training state in this folder; give a file or a state folder"
            )
        return {"file": printable(path), "type": "training state", "step": state[0], "tensors": len(state[1])}
    opened = open_any(path)
    values = sum(tensor.numel() for tensor in opened.tensors.values())
    facts = {"file": printable(path), "bytes": path.stat().st_size, "values": values}
    if opened.concept:
        kind = {"type": f"{opened.kind} concept", "tensors": len(opened.tensors)}
    elif opened.layers:
        kind = {"type": "LoRA", **_lora(opened)}
    else:
        kind = {"type": f"file of the method {_short(opened.method)}", "tensors": len(opened.tensors)}
    return {**facts, **kind, **_plain(opened.metadata)}


def _lora(opened: Opened) -> dict[str, object]:
    matrices = [tensor for tensor in opened.tensors.values() if tensor.dim() > 1]
    return {
        "dialect": ", ".join(opened.dialects),
        "adapted layers": len(opened.layers),
        "ranks": sorted({down.shape[0] for _, down in opened.layers.values()}),
        "dtypes": sorted({str(tensor.dtype).removeprefix("torch.") for tensor in matrices}),
        "trigger words": ", ".join(map(_short, triggers(opened.metadata))) or "not named",
    }


def _plain(metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        _short(key.removeprefix("b4m.")): _short(metadata[key]) for key in sorted(metadata) if key != "format"
    }


def _short(text: str) -> str:
    """What a stranger wrote, fit for a terminal: one line, and not the thousands of tags of some headers."""
    line = text if text.isprintable() else ascii(text)
    return line if len(line) <= 200 else f"{line[:200]}... ({len(text)} characters)"
