"""The memory that a run says it will need, beside what its step has."""

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.profiler import ProfilerActivity, profile

from b4m.backbones.dry_pass import dry_pass
from b4m.backbones.footprint import estimate
from b4m.benchmarking import bench, models
from b4m.benchmarking.profiling import _peak
from b4m.benchmarking.settings import BenchConfig
from b4m.training.loop import Loop


@pytest.fixture(autouse=True)
def own_precision():
    """accelerate keeps one precision per process, unless it is told to forget it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def looped(folder, device: str, size: str, checkpointing: bool, samples: int, **changes) -> Loop:
    """A loop that has taken a micro-batch: gradients are there, and whatever else stays."""
    changes |= {"gradient_checkpointing": checkpointing, "partners": samples - 1}
    config = BenchConfig(size=size, device=device, **changes)
    base = models.base(config, torch.device(device))
    base.pipe.vae = None
    loop = bench._loop(config, "content", folder, base)
    loop.micro_step(0)
    loop.passes = []
    return loop


def expected_of(loop: Loop) -> int:
    """Bytes of a pass."""
    return dry_pass(
        loop.learner.backbone, loop.cache, loop.inputs.samples, loop.config.gradient_checkpointing
    ).peak


@pytest.mark.parametrize(("checkpointing", "samples"), [(False, 2), (True, 2), (True, 4)])
def test_a_pass_needs_what_was_expected_of_it(checkpointing, samples, tmp_path):
    """To a tenth, by the CPU allocator's own account, at the embedded base's size; in float32, where a CPU's attention
    is a fused kernel on q, k and v as they are, as a GPU's is."""
    loop = looped(tmp_path, "cpu", "small", checkpointing, samples, mixed_precision="no")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        loop.micro_step(0)
    assert expected_of(loop) == pytest.approx(_peak(found), rel=0.1)


def test_what_is_expected_before_the_way_back_is_what_autograd_keeps(tmp_path):
    loop = looped(tmp_path, "cpu", "small", False, 2, mixed_precision="no")
    denoiser = loop.learner.backbone.denoiser
    weights = {t.untyped_storage().data_ptr() for t in (*denoiser.parameters(), *denoiser.buffers())}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loop.micro_step(0)
    real = sum(size for place, size in kept.items() if place not in weights)
    assert real < expected_of(loop) < 1.1 * real, "and a little between"


def test_parts_of_an_estimate(tmp_path):
    loop = looped(tmp_path, "cpu", "small", True, 2, mixed_precision="no")
    denoiser, parameters = loop.learner.backbone.denoiser, [*loop.learner.named.values()]
    seen = dry_pass(loop.learner.backbone, loop.cache, 2, True)
    whole = estimate(denoiser, seen, parameters)
    assert whole["adapter"] == 12 * sum(p.numel() for p in parameters) and whole["activations"] == seen.peak
    assert whole["model"] == sum(t.nbytes for t in (*denoiser.parameters(), *denoiser.buffers()))
    frozen = sum(p.nbytes for p in denoiser.parameters() if not p.requires_grad)
    spread = {**whole, "model": whole["model"] - frozen + frozen // 4}
    assert estimate(denoiser, seen, parameters, shares=4) == spread, "the adapter stays whole"
    assert 2 * seen.peak < dry_pass(loop.learner.backbone, loop.cache, 2, False).peak


@pytest.mark.gpu
@pytest.mark.parametrize(("checkpointing", "samples"), [(True, 4), (False, 1)])
def test_a_gpu_needs_what_was_estimated(checkpointing, samples, tmp_path):
    """To a tenth, at SDXL's size: the whole of a step, moments and all."""
    loop = looped(tmp_path, "cuda", "sdxl", checkpointing, samples)
    loop.advance(loop.average(loop.micro_step(0), stop=False))  # makes the moments
    parts = estimate(
        loop.learner.backbone.denoiser,
        dry_pass(loop.learner.backbone, loop.cache, samples, checkpointing),
        list(loop.learner.named.values()),
    )
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    loop.advance(loop.average(loop.micro_step(0), stop=False))
    torch.cuda.synchronize()
    assert sum(parts.values()) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.1)
