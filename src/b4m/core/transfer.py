"""Numbers on their way between host and device, while neither waits for the other."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The host's `values` on `device`. Pinned first for CUDA, which would make the host wait for others."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


class Arriving:
    """A device's numbers (any shape), copied to the host behind all that the device has been told to do so far."""

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        else:
            self._values = values.cpu()

    def read(self) -> list[float]:
        """As a list; waits until they are there, and for nothing that the device was told to do later."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
