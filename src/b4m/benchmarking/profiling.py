"""One step looked into, for `b4m bench`: its arithmetic, its operators, its memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Step = Callable[[], None]
OPERATORS = 12  # in the report, those that take longest
CPU_ATTENTION = {  # which torch's counter does not know
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q, k, v
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda dy, q, k, v, *_, **__: (
        sdpa_backward_flop_count(dy, q, k, v)
    ),
}


def tflop(step: Step) -> float:
    """Arithmetic of matrix products, attention and convolutions, in 1e12 operations."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        step()
    return counter.get_total_flops() / 1e12


def profiled(step: Step, device: torch.device) -> tuple[list[dict], float]:
    """-> (operators, megabytes at the peak above what was there before).

    operators: name, calls and milliseconds of their own, of those that take longest; the last is all of them together.
    The profiler slows a CPU down, small operations most: compare calls, and shares of the time.
    """
    cuda = device.type == "cuda"
    before = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, profile_memory=not cuda) as found:
        step()
        if cuda:
            torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before if cuda else _peak(found)
    return _operators(found, "self_device_time_total" if cuda else "self_cpu_time_total"), peak / 2**20


def _operators(found: profile, time: str) -> list[dict]:
    events = [event for event in found.key_averages() if event.key != "[memory]"]
    rows = [{"name": e.key, "calls": e.count, "ms": getattr(e, time) / 1000} for e in events]
    rows.sort(key=lambda row: -row["ms"])
    together = {name: sum(row[name] for row in rows) for name in ("calls", "ms")}
    return [*rows[:OPERATORS], {"name": "all", **together}]


def _peak(found: profile) -> int:
    """Bytes, from the CPU allocator's own account."""
    held = peak = 0
    account: Any = found.profiler
    events = [e for e in account.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
