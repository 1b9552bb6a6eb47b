"""What would spoil a result in silence: numbers that are not finite."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from .errors import UserError
from .storage import shown

Passes = Sequence[tuple[Sequence[int], Tensor]]  # of one step: (pictures of the rows, their losses (rows,))


def suspects(
    passes: Passes, named: Mapping[str, nn.Parameter], content_rows: int | None, pictures: Sequence[Path]
) -> str:
    """The rows whose loss is not finite; where every loss is, the rows that train a half whose gradient is not.

    named: "content/..." or "style/..." -> parameter; content_rows: how many rows, the first ones, train the
    content's half and no other (None: every row trains both). -> " in row 1 (bear.png)", or "" for none.
    """
    rows = [
        (row, picture, bool(finite))
        for picked, losses in passes
        for row, (picture, finite) in enumerate(zip(picked, losses.isfinite().tolist(), strict=True))
    ]
    found = [(row, picture) for row, picture, finite in rows if not finite]
    if not found:
        bad = {
            n.split("/")[0] for n, p in named.items() if p.grad is not None and not p.grad.isfinite().all()
        }
        found = [
            (row, picture)
            for row, picture, _ in rows
            if bad and (content_rows is None or ("content" if row < content_rows else "style") in bad)
        ]
    names = [f"row {row + 1} ({shown(pictures[picture])})" for row, picture in dict.fromkeys(found)]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f" in {', '.join(names[:4])}{more}" if names else ""


def check_weights(parameters: Sequence[nn.Parameter], step: int, folder: Path) -> None:
    """Raise UserError for weights that no file should keep."""
    if not all(parameter.isfinite().all() for parameter in parameters):
        raise UserError(
            f"the weights are not finite after step {step}: nothing is saved of it, the last state in {shown(folder)} "
            "stays; lower --lr"
        )
