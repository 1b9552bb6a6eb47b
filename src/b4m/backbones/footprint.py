"""How much memory a step will need, found out before the first one: sizes alone, nothing is computed."""

import copy
from collections.abc import Iterable, Sequence

import psutil
import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..config.training import TrainConfig
from .cache import Cache
from .frozen import BLOCKS
from .protocol import Backbone

LEARNABLE = 12  # bytes a learnable number needs besides itself: gradient and two moments, float32
OPTIONS = "--rows-per-pass 1, --gradient-checkpointing, --mixed-precision bf16"


def estimate(
    backbone: Backbone,
    cache: Cache,
    samples: int,
    checkpointing: bool,
    parameters: Sequence[Tensor],
    shares: int = 1,
) -> dict[str, int]:
    """Bytes of a step of `samples` samples at its peak: "model", "adapter" (gradients and moments), "activations".

    shares: over so many processes the frozen weights are spread.
    """
    denoiser = backbone.denoiser
    frozen = sum(_held(parameter) for parameter in denoiser.parameters() if not parameter.requires_grad)
    whole = sum(map(_held, (*denoiser.parameters(), *denoiser.buffers()))) - frozen
    adapter = LEARNABLE * sum(parameter.numel() for parameter in parameters)
    return {
        "model": frozen // shares + whole,
        "adapter": adapter,
        "activations": samples * _activations(backbone, cache, checkpointing),
    }


def _activations(backbone: Backbone, cache: Cache, checkpointing: bool) -> int:
    """Bytes that one sample's forward pass keeps for its backward pass, by a pass over a copy without numbers."""
    like = meta_copy(backbone.denoiser)
    held = {_storage(tensor) for tensor in (*like.parameters(), *like.buffers())}
    kept: dict[int, Tensor] = {}  # by storage: what several operations keep is there once
    inputs, inside, marks = [], [], []

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in held:
            kept[_storage(tensor)] = tensor
        return tensor

    def enter(module: nn.Module, given: tuple) -> None:
        inputs.append(given[0].nbytes)
        marks.append(len(kept))

    def leave(module: nn.Module, given: tuple, result: Tensor) -> None:
        inside.append(_bytes(list(kept.values())[marks.pop() :]))

    for module in like.modules():
        if isinstance(module, BLOCKS):
            module.register_forward_pre_hook(enter)
            module.register_forward_hook(leave)
    one = torch.zeros(1, dtype=torch.long, device=cache.largest.device)
    given = backbone.arguments({name: row.to("meta") for name, row in cache.conditions(one).items()})
    noisy = torch.empty(1, *cache.largest.shape, dtype=like.dtype, device="meta")
    like.disable_gradient_checkpointing()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _FusedAttention():
        like(noisy, torch.empty(1, dtype=torch.long, device="meta"), **given)
    total = _bytes(kept.values())
    return total - sum(inside) + sum(inputs) + max(inside) if checkpointing and inside else total


class _Attention(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its three arguments and its result, never the matrix between tokens."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, y)
        return y


class _FusedAttention(TorchFunctionMode):
    """Tensors without numbers would take the kernel that keeps that matrix; devices take a fused one."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


def _held(tensor: Tensor) -> int:
    """Bytes; of a quantized tensor those of the tensors that it is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.nbytes
    return sum(getattr(tensor, part).nbytes for part in tensor.__tensor_flatten__()[0])


def meta_copy(denoiser: ModelMixin) -> ModelMixin:
    """The same modules with the same settings, on tensors that have sizes and nothing else."""
    empty = {  # of the same dtype, also for quantized ones
        id(p): nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=p.requires_grad)
        for p in denoiser.parameters()
    }
    return copy.deepcopy(denoiser, empty | {id(buffer): buffer.to("meta") for buffer in denoiser.buffers()})


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def free_bytes(device: torch.device) -> int:
    """Memory that is there for the asking, on a GPU with what torch holds in reserve."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def estimate_line(
    backbone: Backbone,
    cache: Cache,
    samples: int,
    config: TrainConfig,
    parameters: Sequence[Tensor],
    processes: int,
) -> str:
    """What a run says before its first step: what it will need at most beside what is free, and what would help."""
    at_once = min(config.rows_per_pass or samples, samples)
    shares = processes if config.shard else 1
    parts = estimate(backbone, cache, at_once, config.gradient_checkpointing, parameters, shares)
    device = cache.largest.device
    there = parts["model"] if backbone.denoiser.device == device else 0
    more = sum(parts.values()) - there
    free = free_bytes(device)
    told = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    line = f"memory: about {sum(parts.values()) / 1e9:.2f} GB ({told}); {more / 1e9:.2f} to come, {free / 1e9:.2f} free"
    return line if more <= free else f"{line}: expect it to run out, and try {OPTIONS}"
