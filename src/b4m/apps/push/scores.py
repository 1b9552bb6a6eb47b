"""Scores with their intervals, from the results.json of `b4m evaluate` or of a study."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.storage import reason
from ...evaluation.report import ALIGNMENTS, SCORES
from .about import line

MAX_BYTES = 64 * 2**20


def read_scores(path: str) -> list[tuple[str, list[str]]]:
    """(row, a text for each of its scores), as they stand in the file. Raises UserError for another file."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"--scores {path}: {file.stat().st_size:,} bytes; is this the right file?")
        rows = json.loads(file.read_text(encoding="utf-8"))["summary"]["rows"]
        return [(line(row), _texts(entry)) for row, entry in rows.items()]
    except OSError as error:
        raise UserError(f"--scores {path}: cannot be read ({reason(error)})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--scores {path}: not a results.json of b4m evaluate or b4m study") from error


def _texts(entry: Mapping[str, Any]) -> list[str]:
    found = [(score, entry["scores"][score]) for score in SCORES if score in entry["scores"]]
    return [f"{SCORES[score]} {_value(score, one)}" for score, one in found] + [
        f"{int(entry['pairs'])} pairs, {int(entry['pictures'])} images"
    ]


def _value(score: str, one: Mapping[str, Any]) -> str:
    """ "0.521 [0.457, 0.585]"; shares of images in percent; no ends where a single pair gives none."""
    ends = [one["low"], one["high"]]
    numbers = [_number(score, one["mean"]), *(_number(score, end) for end in ends if end is not None)]
    return numbers[0] if len(numbers) < 3 else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def _number(score: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{score} is no number")
    return f"{value:.3f}" if score in ALIGNMENTS else f"{value:.0%}"
