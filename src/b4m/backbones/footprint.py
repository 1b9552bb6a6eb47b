"""How much memory a step will need, found out before the first one: sizes alone, nothing is computed."""

from collections.abc import Sequence

import psutil
import torch
from diffusers import ModelMixin
from torch import Tensor

from ..config.training import TrainConfig
from .dry_pass import DryPass

LEARNABLE = 12  # bytes a learnable number needs besides itself: gradient and two moments, float32
OPTIONS = "--rows-per-pass 1, --gradient-checkpointing, --mixed-precision bf16"


def estimate(
    denoiser: ModelMixin,
    seen: DryPass,
    parameters: Sequence[Tensor],
    shares: int = 1,
) -> dict[str, int]:
    """Bytes of a step at its peak: "model", "adapter" (gradients and moments), "activations".

    seen: of the step's largest pass. shares: over so many processes the frozen weights are spread.
    """
    frozen = sum(_held(parameter) for parameter in denoiser.parameters() if not parameter.requires_grad)
    whole = sum(map(_held, (*denoiser.parameters(), *denoiser.buffers()))) - frozen
    adapter = LEARNABLE * sum(parameter.numel() for parameter in parameters)
    return {
        "model": frozen // shares + whole,
        "adapter": adapter,
        "activations": seen.peak,
    }


def _held(tensor: Tensor) -> int:
    """Bytes; of a quantized tensor those of the tensors that it is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    return sum(getattr(tensor, part).nbytes for part in tensor.__tensor_flatten__()[0])


def free_bytes(device: torch.device) -> int:
    """Memory that is there for the asking, on a GPU with what torch holds in reserve."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def estimate_line(
    denoiser: ModelMixin,
    seen: DryPass,
    device: torch.device,
    config: TrainConfig,
    parameters: Sequence[Tensor],
    processes: int,
) -> str:
    """What a run says before its first step: what it will need at most beside what is free, and what would help."""
    shares = processes if config.shard else 1
    parts = estimate(denoiser, seen, parameters, shares)
    there = parts["model"] if denoiser.device == device else 0
    more = sum(parts.values()) - there
    free = free_bytes(device)
    told = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    line = f"memory: about {sum(parts.values()) / 1e9:.2f} GB ({told}); {more / 1e9:.2f} to come, {free / 1e9:.2f} free"
    return line if more <= free else f"{line}: expect it to run out, and try {OPTIONS}"
