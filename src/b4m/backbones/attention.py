"""Which of torch's kernels computes attention: asked of torch itself, by the choice that it makes in every call."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.overrides import TorchFunctionMode

NAMES = {
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.MATH: "math",  # the only one that is not fused: it keeps the matrix between tokens
}


def kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> str:
    """What scaled_dot_product_attention takes for these (samples, heads, tokens, width), without calling it."""
    backend = SDPBackend(torch._fused_sdp_choice(q, k, v, mask))
    return NAMES.get(backend, backend.name.lower())


class Kernels(TorchFunctionMode):
    """While it lasts, counts the calls of each kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func, types, args: tuple[Any, ...] = (), kwargs=None):
        if func is F.scaled_dot_product_attention:
            mask = args[3] if len(args) > 3 else (kwargs or {}).get("attn_mask")
            self.calls[kernel(args[0], args[1], args[2], mask)] += 1
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Call:
    """One call of attention."""

    queries: torch.Size  # (samples, heads, tokens, width)
    others: int  # tokens of keys and values
    dtype: torch.dtype
    mask: torch.Size | None


def kernels(calls: Mapping[Call, int], device: torch.device) -> Counter[str]:
    """How many of a training pass's `calls` each kernel takes on `device`."""
    found: Counter[str] = Counter()
    for call, times in calls.items():
        q, k, v = (_like(call, tokens, device) for tokens in (call.queries[2], call.others, call.others))
        mask = None if call.mask is None else q.new_empty(call.mask)
        found[kernel(q, k, v, mask)] += times
    return found


def _like(call: Call, tokens: int, device: torch.device) -> Tensor:
    """As an attention processor makes it: the heads of a token side by side, and with a gradient."""
    samples, heads, _, width = call.queries
    made = torch.empty(samples, tokens, heads, width, dtype=call.dtype, device=device)
    return made.transpose(1, 2).requires_grad_()


def told(calls: Mapping[str, int]) -> str:
    """In words: "flash", or "flash (70 of 140 calls), math (70)"."""
    if len(calls) <= 1:
        return "".join(calls) or "none"
    total = sum(calls.values())
    ordered = sorted(calls.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} ({count} of {total} calls)" for name, count in ordered)
