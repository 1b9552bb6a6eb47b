"""A training's pass forward and back on tensors without numbers: what it needs at most, what it calls."""

import copy
import weakref
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from .attention import Call
from .cache import Cache
from .protocol import Backbone


@dataclass(frozen=True)
class DryPass:
    """What was seen of one pass."""

    peak: int  # bytes at most at once: activations, their gradients, what operations need between
    attention: Counter[Call]


def dry_pass(backbone: Backbone, cache: Cache, samples: int, checkpointing: bool) -> DryPass:
    """Of `samples` samples as large as the largest of `cache`, with a fused kernel for attention. Nothing is computed.

    The gradients of what learns are there before, as from the second micro-batch of a step on.
    """
    like = meta_copy(backbone.denoiser)
    learnable = [parameter for parameter in like.parameters() if parameter.requires_grad]
    for parameter in learnable:
        parameter.grad = torch.zeros_like(parameter)
    rows = torch.zeros(samples, dtype=torch.long, device=cache.largest.device)
    conditions = {name: row.to("meta") for name, row in cache.conditions(rows).items()}
    if not learnable:  # then it is in the text encoders
        for row in conditions.values():
            row.requires_grad_()
    noisy = torch.empty(samples, *cache.largest.shape, dtype=like.dtype, device="meta")
    timesteps = torch.empty(samples, dtype=torch.long, device="meta")
    calls: Counter[Call] = Counter()

    def recomputed(module: nn.Module, *given: Tensor) -> Tensor:
        def block(*given: Tensor) -> Tensor:
            with _FusedAttention(calls):  # none is active on the way back
                return module(*given)

        return checkpoint(block, *given, use_reentrant=False)

    like.disable_gradient_checkpointing()  # as the denoiser may have it
    if checkpointing:
        like.enable_gradient_checkpointing(recomputed)
    with _FusedAttention(calls), _Living(like) as living:
        like(noisy, timesteps, **backbone.arguments(conditions)).sample.float().square().mean().backward()
    return DryPass(living.most, calls)


class _Living(TorchDispatchMode):
    """Counts the bytes that operations make, for as long as anything holds them; but for those of `module` itself."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        own = [*module.parameters(), *module.buffers()]
        own += [parameter.grad for parameter in own if parameter.grad is not None]
        self._known = {_storage(tensor) for tensor in own}
        self.now = self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for made in (found,) if isinstance(found, Tensor) else tree_leaves(found):
            if isinstance(made, Tensor) and _storage(made) not in self._known:
                self._add(made.untyped_storage())
        self.most = max(self.most, self.now)
        return found

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.now += storage.nbytes()
        gone: Any = weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())
        gone.atexit = False

    def _drop(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.now -= size


class _Attention(torch.autograd.Function):
    """Keeps what a fused kernel keeps: its three arguments and its result, never the matrix between tokens.

    The result has the heads of a token side by side in memory, as those kernels leave it, so that what the next layer
    is given is no copy of it.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        samples, heads, tokens, _ = q.shape
        y = q.new_empty(samples, tokens, heads, v.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(q, k, v, y)
        return y

    @staticmethod
    def backward(ctx, grad_y: Tensor):  # pyrefly: ignore[bad-override]
        q, k, v, _ = ctx.saved_tensors
        return tuple(map(torch.empty_like, (q, k, v)))


class _FusedAttention(TorchFunctionMode):
    """Tensors without numbers would take the kernel that keeps that matrix; devices take a fused one."""

    def __init__(self, calls: Counter[Call]) -> None:
        """calls: to be counted in."""
        super().__init__()
        self.calls = calls

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        mask = (kwargs or {}).get("attn_mask")
        self.calls[Call(q.shape, k.shape[2], q.dtype, None if mask is None else mask.shape)] += 1
        return _Attention.apply(q, k, v)


def meta_copy(denoiser: ModelMixin) -> ModelMixin:
    """The same modules with the same settings, on tensors that have sizes and nothing else."""
    empty = {  # of the same dtype, also for quantized ones
        id(p): nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=p.requires_grad)
        for p in denoiser.parameters()
    }
    return copy.deepcopy(denoiser, empty | {id(buffer): buffer.to("meta") for buffer in denoiser.buffers()})


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
