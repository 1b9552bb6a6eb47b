"""Two strengths at which a content and a style move the predictions of their base model equally far."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean

import yaml
from torch import Tensor

from ..core.errors import UserError
from ..core.storage import write_text
from ..maths.moves import move
from ..sampling.states import predict
from .pair import on_base
from .settings import BalanceConfig

LEAST, MOST = 0.05, 4.0  # strengths that are tried
CLOSE = 0.01  # of the move that is looked for
TRIES = 12


@dataclass(frozen=True)
class Balance:
    """What was found. Moves are means over states and noise levels of |v - v(0,0)|^2 / |v(0,0)|^2."""

    moves: dict[str, float]  # of each alone at strength 1
    target: float  # the move that both are brought to
    strengths: dict[str, float]  # of content and style
    reached: dict[str, float]  # the moves at these strengths


def balance(config: BalanceConfig) -> Balance:
    """The strengths; with config.output they are written as settings that `b4m generate --config` reads.

    Criterion: content and style, each alone, move the prediction equally far, by the geometric mean of their moves at
    strength 1, so that what one loses the other gains; or, with config.bound, neither by more than that, and what
    moves less stays as it is. Raises UserError for files that do not compose, and for a concept that moves nothing.
    """
    backbone, found = on_base(
        config.content_file, config.style_file, config.base_model, config.content_dir, config.prompts
    )
    neither = [predict(backbone, states, 0, 0) for states in found]

    def moved(content: float, style: float) -> float:
        of_states: list[Tensor] = [
            move(v, predict(backbone, states, content, style))
            for v, states in zip(neither, found, strict=True)
        ]
        return fmean(value for each in of_states for value in each.tolist())

    alone: dict[str, Callable[[float], float]] = {
        "content": lambda strength: moved(strength, 0),
        "style": lambda strength: moved(0, strength),
    }
    before = {kind: of_kind(1.0) for kind, of_kind in alone.items()}
    for kind, value in before.items():
        if value < 1e-6:
            raise UserError(
                f"{getattr(config, f'{kind}_file')}: moves no prediction of these prompts; name what calls it with "
                "--prompts, or train it longer"
            )
    target = sqrt(before["content"] * before["style"]) if config.bound is None else config.bound
    strengths = {
        kind: 1.0
        if config.bound is not None and before[kind] <= target
        else strength_for(of_kind, before[kind], target)
        for kind, of_kind in alone.items()
    }
    strengths = {kind: round(value, 3) for kind, value in strengths.items()}
    reached = {kind: of_kind(strengths[kind]) for kind, of_kind in alone.items()}
    if config.output is not None:
        write_text(Path(config.output), _settings(config, strengths))
    return Balance(before, target, strengths, reached)


def strength_for(moved: Callable[[float], float], at_one: float, target: float) -> float:
    """The strength at which `moved` is `target`, by secants on its root, which is nearly proportional to strength.

    Kept between LEAST and MOST.
    """
    strength, found = 1.0, at_one
    for _ in range(TRIES):
        if abs(found - target) <= CLOSE * target:
            break
        strength = min(max(strength * sqrt(target / found), LEAST), MOST)
        found = moved(strength)
    return strength


def balance_table(found: Balance) -> str:
    """A line for each of the two."""
    lines = ["         move at 1  strength  move there"]
    for kind, strength in found.strengths.items():
        lines.append(f"{kind:8} {found.moves[kind]:9.3f}  {strength:8.2f}  {found.reached[kind]:10.3f}")
    return "\n".join(lines)


def _settings(config: BalanceConfig, strengths: dict[str, float]) -> str:
    files = {"content_file": config.content_file, "style_file": config.style_file}
    return yaml.safe_dump(
        {**files, **{f"{kind}_strength": value for kind, value in strengths.items()}}, sort_keys=False
    )
