"""Several processes that train as one, each on its share of a step's samples: torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def start() -> None:
    """Join the others if torchrun started this process; alone otherwise."""
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def share() -> slice:
    """Which rows of a step's samples are this process's own."""
    return slice(rank(), None, count())


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through the block before the others do, who then find what it wrote."""
    if rank() > 0:
        dist.barrier()
    yield
    if rank() == 0 and count() > 1:
        dist.barrier()


def agreed(number: int) -> int:
    """The first process's number."""
    said = torch.tensor(number)
    if count() > 1:
        dist.broadcast(said, src=0)
    return int(said)


@torch.no_grad()
def average_gradients(weights: Sequence[Tensor]) -> None:
    """Give every process the mean of all processes' gradients: equal shares make it the gradient of the whole step."""
    if count() == 1:
        return
    gradients = [w.grad for w in weights if w.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= count()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
