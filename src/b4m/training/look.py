"""What a step tells the host, all of it on its way while the host goes on: so a GPU need not stand still for it."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.transfer import Arriving
from .guard import Passes


def looks_late(device: torch.device, scaler: torch.amp.GradScaler | None, skip_not_finite: int) -> bool:
    """Whether the host looks at a step while the next one is under way.

    On a GPU, but where it must be known at once: a step that may be left out must move nothing, and a loss scaler asks
    in every step for itself.
    """
    return device.type == "cuda" and scaler is None and not skip_not_finite


class Look:
    """Losses of one step, norms of its gradients, what its method measures. Who asks waits for no later step."""

    def __init__(self, step: int, passes: Passes, values: Tensor) -> None:
        """values: the losses, and behind them whether a process was told to stop (> 0). step: counted from 1."""
        self.step, self.passes, self.left_out = step, passes, False
        self._values = Arriving(values)
        self._stepped: Sequence[nn.Parameter] = ()
        self._norms: Arriving | None = None
        self._measured: tuple[list[str], Arriving] | None = None

    def add_norms(self, stepped: Sequence[nn.Parameter], norms: Tensor) -> None:
        """stepped: what has a gradient; norms (1 + stepped,): as `gradients.norms` gives them."""
        self._stepped, self._norms = stepped, Arriving(norms)

    def add_measured(self, found: Mapping[str, Tensor]) -> None:
        if found:
            self._measured = [*found], Arriving(torch.stack([*found.values()]))

    @property
    def loss(self) -> float:
        """What is minimized."""
        return self._values.read()[0]

    @property
    def stop(self) -> bool:
        return self._values.read()[-1] > 0

    def problem(self, of_gradient: bool) -> str:
        """What is not finite, in words; "" for nothing. of_gradient: whether its norm must be finite as well."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        bad = of_gradient and self._norms is not None and not math.isfinite(self._norms.read()[0])
        return "the gradient is not finite" if bad else ""

    def suspected(self) -> list[nn.Parameter]:
        """What has a gradient that is not finite."""
        norms = self._norms.read()[1:] if self._norms is not None else []
        return [p for p, norm in zip(self._stepped, norms, strict=False) if not math.isfinite(norm)]

    def record(self, names: Sequence[str]) -> dict[str, float]:
        """A line of the log. names: of the losses."""
        losses = dict(zip(names, self._values.read()[:-1], strict=False))
        keys, measured = self._measured or ([], None)
        return {
            "step": self.step,
            **losses,
            **dict(zip(keys, measured.read() if measured else [], strict=True)),
        }
