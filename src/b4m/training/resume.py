"""What a training state holds: the settings it belongs to, and an optimizer as tensors and JSON."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from ..config.fields import deciding
from ..config.training import TrainConfig
from ..core.errors import UserError
from ..core.storage import read_tensors

GROWS = {"steps"}  # kept with the state, free to differ: the caller says what a change means


def settings_of(config: TrainConfig, facts: Mapping, processes: int) -> dict:
    """All that the result is a function of, as JSON gives it back. `facts`: what lies behind the paths."""
    values = {f.name: getattr(config, f.name) for f in deciding(type(config))}
    return json.loads(json.dumps({"stage": config.stage, **values, **facts, "processes": processes}))


def check_same(config: TrainConfig, before: Mapping, now: Mapping) -> None:
    """Raises UserError, naming the first setting that differs: a run goes on as it began."""
    known = {f.name: f.default for f in fields(config)}
    for name in [*now, *before]:
        if name in GROWS or name in known and name not in now:  # or it no longer decides the result
            continue
        # A setting that the state's release did not know has behaved as its default does.
        values = before.get(name, known.get(name)), now.get(name)
        if values[0] != values[1]:
            then, other = (value if len(str(value)) < 60 else "(others)" for value in values)
            raise UserError(
                f"{config.output_dir}: the run in this folder has {name.replace('_', '-')} {then}, now it is {other}; "
                "go on with the old setting, or give another --output-dir"
            )


def check_steps(taken: int, before: Mapping, config: TrainConfig, folder: Path) -> str | None:
    """A run may be prolonged. -> what the user should know of it. Raises UserError where it is past its end."""
    if taken > config.steps:
        raise UserError(
            f"{folder}: --steps {config.steps}, and {taken} are taken already; give as many or more, or another "
            "--output-dir"
        )
    if before["steps"] != config.steps and config.lr_schedule != "constant":
        then = before["steps"]
        return f"--steps {config.steps}, before {then}: the learning rates follow the new length from here on"
    return None


def made_by(path: Path, steps: int) -> bool:
    """Whether `path` is a whole result of that many steps, and not one of before the run was prolonged."""
    try:
        return read_tensors(path)[1].get("b4m.steps") == str(steps)
    except UserError:
        return False


def pack(
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> tuple[dict[str, Tensor], dict]:
    """Parameters and all state of optimizer and loss scaler: (tensors by name, the rest as JSON)."""
    state = optimizer.state_dict()
    tensors = {f"parameter/{name}": parameter.detach() for name, parameter in parameters.items()}
    scalars: dict[str, dict] = {str(index): {} for index in state["state"]}
    for index, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                scalars[str(index)][key] = value
    scale = scaler.state_dict() if scaler is not None else None
    return tensors, {"groups": state["param_groups"], "scalars": scalars, "scaler": scale}


@torch.no_grad()
def unpack(
    tensors: Mapping[str, Tensor],
    meta: Mapping,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None,
) -> None:
    """Put back what `pack` took, bit for bit. UserError for an optimizer that was laid out otherwise."""
    then, now = (
        [len(group["params"]) for group in groups] for groups in (meta["groups"], optimizer.param_groups)
    )
    if then != now:
        raise UserError(
            "the training state was saved by an earlier version, which kept its optimizer otherwise; go on with that "
            "version, or give another --output-dir"
        )
    state: dict[int, dict] = {int(index): dict(entries) for index, entries in meta["scalars"].items()}
    for name, tensor in tensors.items():
        place, _, rest = name.partition("/")
        if place == "parameter":
            parameters[rest].copy_(tensor)
        else:
            index, _, key = rest.partition("/")
            state[int(index)][key] = tensor
    groups = [
        {
            key: tuple(value) if isinstance(value, list) and key != "params" else value
            for key, value in group.items()
        }
        for group in meta["groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if scaler is not None and meta["scaler"] is not None:
        scaler.load_state_dict(meta["scaler"])
