"""Prompts that an attached file reads in its own way, and otherwise from step to step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..backbones.protocol import Backbone, Conditions, Told


@contextmanager
def told(backbone: Backbone, prompts: Sequence[str]) -> Iterator[None]:
    """While it lasts, the denoiser's last samples are told what the attached file makes of `prompts` at the timestep.

    What is told is read when it is first due, so that dials may be turned until then; guidance's other half, which
    comes first in a batch, is left alone.
    """
    if not isinstance(backbone.attached, Told):
        yield
        return
    attached: Told = backbone.attached
    known: dict[tuple[str, ...], Conditions] = {}

    def retell(_: nn.Module, given: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        timestep = float(given[1]) if len(given) > 1 else float(named["timestep"])
        texts = tuple(attached.prompt_at(prompt, timestep) for prompt in prompts)
        if texts not in known:
            with torch.no_grad():
                known[texts] = backbone.encode_prompts(texts)
        return given, backbone.retold(named, known[texts])

    handle = backbone.denoiser.register_forward_pre_hook(retell, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
