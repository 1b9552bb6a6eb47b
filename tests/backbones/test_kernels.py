"""How a denoiser is computed on its device: which kernel attends, in what order convolutions have their numbers."""

from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from b4m.backbones import frozen
from b4m.backbones.attention import Call, Kernels, kernel, kernels, told
from b4m.backbones.dry_pass import dry_pass
from b4m.backbones.frozen import channels_last_pays, compile_blocks, convolutions, is_channels_last, place
from b4m.backbones.registry import open_backbone
from b4m.benchmarking import models
from b4m.benchmarking.models import Bare
from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec
from b4m.training.loop import train

CPU = torch.device("cpu")
PLAIN = SimpleNamespace(shard=False, gradient_checkpointing=False, compile=False)
DEEP = dict(  # three transformer blocks side by side at two widths
    sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    transformer_layers_per_block=3, attention_head_dim=(2, 4), cross_attention_dim=48, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=72,
)  # fmt: skip
GRAPHS = 3  # for its 21 blocks: one for each width, and one for the first block, whose input has no gradient
RAN = {  # kernel -> the operator that it is
    "flash": ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention"),
    "memory-efficient": ("_scaled_dot_product_efficient_attention",),
    "cuDNN": ("_scaled_dot_product_cudnn_attention",),
    "math": ("_scaled_dot_product_attention_math",),
}


def model(dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> Bare:
    unet = models.random_model(models.UNet2DConditionModel, DEEP, dtype, device)
    scheduler = models.EulerDiscreteScheduler(beta_schedule="scaled_linear")
    return Bare(unet, nn.Identity(), scheduler)


def answer(backbone: Bare, content_samples: int | None = None) -> torch.Tensor:
    """Of four samples."""
    cache = models.random_cache(backbone.denoiser, 4, 64)
    images = torch.arange(4, device=backbone.denoiser.device)
    attention = None if content_samples is None else {"content_samples": content_samples}
    return backbone.predict(torch.stack(list(cache.latents)), 9 * images, cache.conditions(images), attention)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


def operators(act) -> set[str]:
    with torch.profiler.profile() as found:
        act()
    return {event.key.removeprefix("aten::") for event in found.key_averages()}


def check_named_as_run(q: torch.Tensor, k: torch.Tensor) -> str:
    name = kernel(q, k, k)
    ran = operators(lambda: F.scaled_dot_product_attention(q, k, k))
    assert {each for each, its in RAN.items() if ran & {*its}} == {name}
    return name


@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_the_kernel_that_is_named_is_the_one_that_runs(backend):
    q, k = torch.randn(2, 4, 16, 8, requires_grad=True), torch.randn(2, 4, 5, 8)
    with sdpa_kernel(backend):
        assert check_named_as_run(q, k) == ("flash" if backend == SDPBackend.FLASH_ATTENTION else "math")


def test_what_a_dry_pass_expects_is_what_a_step_calls():
    backbone = model()
    Adapter.install(backbone.denoiser, BasisSpec(rank=4))
    seen = dry_pass(backbone, models.random_cache(backbone.denoiser, 1, 64), 4, False).attention
    outer, inner = (4, 2, 64, 16), (4, 4, 16, 16)  # samples, heads, tokens, width
    layers = {outer: 9, inner: 12}  # three each of down, up and up; inside those of the middle as well
    expected = {
        Call(torch.Size(queries), others, torch.float32, None): count
        for queries, count in layers.items()
        for others in (queries[2], 77)
    }
    assert seen == expected
    with Kernels() as called:
        answer(backbone)
    assert called.calls == kernels(seen, CPU) == {"flash": 42}


def test_kernels_are_told_in_words():
    assert told({"flash": 140}) == "flash" and told({}) == "none"
    assert told({"math": 20, "flash": 120}) == "flash (120 of 140 calls), math (20 of 140 calls)"
    masked = Call(torch.Size((2, 2, 16, 8)), 16, torch.float32, torch.Size((2, 2, 1, 16)))
    with sdpa_kernel(SDPBackend.MATH):
        assert kernels({masked: 3}, CPU) == {"math": 3}


def test_channels_last_is_for_half_precision_on_a_gpu():
    cuda = torch.device("cuda")
    assert channels_last_pays(cuda, torch.bfloat16) and channels_last_pays(cuda, torch.float16)
    assert not channels_last_pays(cuda, torch.float32) and not channels_last_pays(CPU, torch.bfloat16)
    backbone = model(torch.bfloat16)
    place(backbone.denoiser, PLAIN, CPU)
    assert not is_channels_last(backbone.denoiser)


def test_a_model_that_draws_is_laid_out_too(tiny_base, monkeypatch):
    monkeypatch.setattr(frozen, "channels_last_pays", lambda device, dtype: device.type == "cpu")
    assert is_channels_last(open_backbone(tiny_base).to("cpu").denoiser)


def orders(denoiser) -> list[bool]:
    """Filled by every later call of a convolution wider than a pixel: whether its result is in channels-last order."""
    found: list[bool] = []
    for module in convolutions(denoiser):
        if module.kernel_size != (1, 1):
            module.register_forward_hook(
                lambda _, given, y: found.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    return found


def check_order_and_values(device: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    first = model(dtype, device)
    with torch.no_grad():
        expected = answer(first)
    last = model(dtype, device)
    before = {name: weight.clone() for name, weight in last.denoiser.state_dict().items()}
    place(last.denoiser, PLAIN, device)
    assert is_channels_last(last.denoiser) and not is_channels_last(first.denoiser)
    assert all(torch.equal(before[name], weight) for name, weight in last.denoiser.state_dict().items())
    found = orders(last.denoiser)
    with torch.no_grad():
        assert distance(answer(last), expected) < tolerance
    assert len(found) == 20 and all(found)


def test_the_order_reaches_the_convolutions_and_changes_no_value(monkeypatch):
    monkeypatch.setattr(frozen, "channels_last_pays", lambda device, dtype: True)
    check_order_and_values(CPU, torch.float32, 1e-5)


def test_spread_weights_keep_their_order(monkeypatch):
    """fully_shard takes no other."""
    monkeypatch.setattr(frozen, "channels_last_pays", lambda device, dtype: True)
    monkeypatch.setattr(frozen, "shard", lambda denoiser, device: None)
    backbone = model()
    place(backbone.denoiser, SimpleNamespace(shard=True, gradient_checkpointing=False, compile=False), CPU)
    assert not is_channels_last(backbone.denoiser)


@pytest.fixture
def compiled_anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def gradients(backbone: Bare, adapter: Adapter) -> list[torch.Tensor]:
    factors = [factor for pair in adapter.pairs() for factor in pair]
    return list(torch.autograd.grad(answer(backbone, content_samples=1).float().square().mean(), factors))


def check_compiled(device: torch.device, tolerance: float, **options) -> None:
    """Same gradients from compiled blocks."""
    torch.manual_seed(0)
    backbone = model(device=device)
    adapter = Adapter.install(backbone.denoiser, BasisSpec(rank=4))
    for factor in (factor for pair in adapter.pairs() for factor in pair):
        nn.init.normal_(factor, std=0.1)
    expected = gradients(backbone, adapter)
    compile_blocks(backbone.denoiser, fullgraph=True, **options)
    for _ in range(2):  # nothing is made the second time
        for found, wanted in zip(gradients(backbone, adapter), expected, strict=True):
            assert distance(found, wanted) < tolerance


def test_a_block_is_compiled_once_and_not_once_a_layer(compiled_anew):
    made = []

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    check_compiled(CPU, 1e-4, backend=backend)
    assert len(made) == GRAPHS


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_gpu_runs_the_fused_kernel_that_is_named(dtype):
    q, k = (torch.randn(2, tokens, 4, 64, device="cuda", dtype=dtype).transpose(1, 2) for tokens in (256, 77))
    assert check_named_as_run(q.requires_grad_(), k) != "math"


@pytest.fixture
def own_precision():
    """accelerate keeps one precision per process, unless it is told to forget it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.gpu
def test_a_run_on_a_gpu_says_what_attends_and_how_convolutions_lie(own_precision, settings, tmp_path, capsys):
    train(settings("content", tmp_path, steps=1, mixed_precision="bf16"))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("kernels:"))
    assert "math" not in line and line.endswith("convolutions channels last")


@pytest.mark.gpu
def test_channels_last_on_a_gpu():
    check_order_and_values(torch.device("cuda"), torch.bfloat16, 3e-2)
    backbone = model(torch.float32, torch.device("cuda"))
    place(backbone.denoiser, PLAIN, torch.device("cuda"))
    assert not is_channels_last(backbone.denoiser)


@pytest.mark.gpu
def test_a_gpu_compiles_a_block_once(compiled_anew):
    from torch._dynamo.utils import counters

    counters.clear()
    check_compiled(torch.device("cuda"), 1e-2)
    assert counters["stats"]["unique_graphs"] == GRAPHS
