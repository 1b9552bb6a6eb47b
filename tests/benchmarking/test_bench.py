"""`b4m bench`: real steps of everything it names, numbers that add up, rivals that do what they are there for."""

import copy
import json

import pytest
import torch
from accelerate.state import AcceleratorState

from b4m.apps.cli import main
from b4m.backbones import frozen
from b4m.backbones.cache import Cache
from b4m.backbones.dry_pass import meta_copy
from b4m.benchmarking import bench as measured
from b4m.benchmarking import models, rivals
from b4m.benchmarking.bench import bench
from b4m.benchmarking.models import Bare
from b4m.benchmarking.profiling import OPERATORS, profiled, tflop
from b4m.benchmarking.report import shown
from b4m.benchmarking.settings import BenchConfig
from b4m.core.errors import UserError
from b4m.core.process import peak_mb
from b4m.maths import riemannian
from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec

TINY = dict(
    sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    attention_head_dim=(2, 4), cross_attention_dim=48, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=72,
)  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def own_precision():
    """accelerate keeps one precision per process, unless it is told to forget it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def tiny(monkeypatch, own_precision):
    monkeypatch.setitem(models.UNETS, "small", TINY)
    vae = dict(models.VAES["small"], block_out_channels=(8,) * 4, latent_channels=4, norm_num_groups=4)
    monkeypatch.setitem(models.VAES, "small", vae)


def test_every_contender_is_measured_and_its_phases_are_its_time(tiny, tmp_path):
    config = BenchConfig(
        size="small", device="cpu", rank=4, steps=2, warm_up=1, output=str(tmp_path / "b.json")
    )
    report = bench(config)
    assert json.loads((tmp_path / "b.json").read_text())["ratios"] == report["ratios"]
    rows = {(row["group"], row["name"]): row for row in report["rows"]}
    assert {name for group, name in rows if group == "stage one"} == {
        "ours",
        "ordinary LoRA",
        "published flow",
    }
    assert {name for group, name in rows if group == "optimizer"} == {
        "ours",
        "peft",
        "layer by layer",
        "AdamW",
    }
    for (group, _), row in rows.items():
        assert row["fastest"] <= row["seconds"] <= row["slowest"] and row["peak_mb"] > 0
        assert sum(row["phases"].values()) <= 2 * row["slowest"]
        assert (row["tflop"] > 0) == (row["tflop_per_second"] > 0)
        if group in ("stage one", "second stage"):
            assert all(row["phases"][phase] > 0 for phase in ("data", "forward", "backward", "optimizer"))
            assert row["samples_per_second"] == pytest.approx(4 / row["seconds"])
        assert all(0 <= op["ms"] <= row["operators"][-1]["ms"] and op["calls"] > 0 for op in row["operators"])
    calls = {
        name: row["operators"][-1]["calls"] for (group, name), row in rows.items() if group == "stage one"
    }
    assert calls["published flow"] > 2 * calls["ours"], "four passes instead of one"
    check_operators(rows["stage one", "ours"]["operators"])
    ours, lora = rows["stage one", "ours"], rows["stage one", "ordinary LoRA"]
    assert ours["tflop"] < lora["tflop"], "only the weight gradients that routing asks for"
    assert report["ratios"]["stage one: ordinary LoRA / ours"] == lora["seconds"] / ours["seconds"]
    told = shown(report)
    assert "published flow" in told and "convolutions: channels first" in told
    assert "attention: flash (stage one: ours; second stage: ours; inference: base;" in told
    assert ours["attention"] == {"flash": 14} and rows["optimizer", "ours"]["attention"] == {}
    assert rows["stage one", "published flow"]["attention"] == {"flash": 60}, "its autoencoder as well"


def test_the_model_in_the_other_order_is_the_same_one(monkeypatch):
    monkeypatch.setattr(frozen, "channels_last_pays", lambda device, dtype: True)
    model, _ = model_and_cache()
    frozen.lay_out(model.denoiser)
    first = measured._channels_first(model)
    assert frozen.is_channels_last(model.denoiser) and not frozen.is_channels_last(first.denoiser)
    assert torch.equal(first.denoiser.conv_out.weight, model.denoiser.conv_out.weight)
    assert first.denoiser.conv_out.bias is model.denoiser.conv_out.bias, "no second model"


def check_operators(operators: list[dict]) -> None:
    """Those that take longest, the longest first, and all together, of which they are a part."""
    *longest, together = operators
    names = [operator["name"] for operator in longest]
    assert len({*names}) == len(names) == OPERATORS and together["name"] == "all"
    times = [operator["ms"] for operator in longest]
    assert times == sorted(times, reverse=True) and 0 < sum(times) < together["ms"]
    assert sum(operator["calls"] for operator in longest) < together["calls"]


def test_what_a_step_calls_and_holds_is_counted():
    a = torch.randn(256, 256)

    def step() -> None:
        for _ in range(3):
            held = a @ a  # the one before goes when the next one is there
        held.relu_()

    operators, peak = profiled(step, CPU)
    calls = {operator["name"]: operator["calls"] for operator in operators}
    assert calls["aten::mm"] == 3 and calls["aten::relu_"] == 1
    assert calls["all"] >= 4 and operators[-1]["ms"] >= max(operator["ms"] for operator in operators[:-1])
    assert peak == pytest.approx(2 * 256 * 256 * 4 / 2**20, rel=0.1)


@pytest.mark.parametrize(("rivals", "names"), [("light", {"ours", "ordinary LoRA"}), ("none", {"ours"})])
def test_rivals_may_be_left_out(rivals, names, tiny, tmp_path):
    output = str(tmp_path / "b.json")
    config = BenchConfig(size="small", device="cpu", rank=4, steps=1, warm_up=1, rivals=rivals, output=output)
    rows = bench(config)["rows"]
    assert {row["name"] for row in rows if row["group"] == "stage one"} == names
    assert any(row["group"] == "optimizer" for row in rows) == (rivals == "light")


def test_a_device_that_is_not_there_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    assert main(["bench", "--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    with pytest.raises(UserError, match="multiple of 32"):
        BenchConfig(resolution=40)


@pytest.mark.parametrize(("size", "parameters", "blocks"), [("sdxl", 2_567_463_684, 70), ("small", None, 7)])
def test_architectures_are_the_real_ones(size, parameters, blocks):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**models.UNETS[size])
    names = [
        name for name, module in unet.named_modules() if type(module).__name__ == "BasicTransformerBlock"
    ]
    assert len(names) == blocks
    assert parameters is None or sum(p.numel() for p in unet.parameters()) == parameters


def model_and_cache() -> tuple[Bare, Cache]:
    """The tiny SDXL with random weights, and four images and prompts of noise."""
    unet = models.random_model(models.UNet2DConditionModel, TINY, torch.float32, CPU)
    vae = models.random_model(models.AutoencoderKL, models.VAES["small"], torch.float32, CPU)
    scheduler = models.EulerDiscreteScheduler(beta_schedule="scaled_linear")
    return Bare(unet, vae, scheduler), Cache(
        latents=list(torch.randn(4, 4, 8, 8)),
        by_prompt={"hidden": torch.randn(4, 5, 48), "pooled": torch.randn(4, 24)},
        by_image={"time_ids": torch.full((4, 6), 64.0)},
        prompt=torch.arange(4),
    )


def test_a_copy_that_shares_its_weights_is_adapted_alone():
    unet = model_and_cache()[0].denoiser
    twin = rivals.sharing(unet)
    assert twin.conv_in.weight is unet.conv_in.weight
    rivals.LoraAdapter(twin, ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"], 4)
    assert not any("lora" in name for name, _ in unet.named_modules())
    assert meta_copy(unet).conv_in.weight.device.type == "meta" and unet.conv_in.weight.device.type == "cpu"


def test_lora_trains_every_layer_it_is_given_and_nothing_else():
    unet = model_and_cache()[0].denoiser
    twin = rivals.sharing(unet)
    layers = list(Adapter.install(copy.deepcopy(unet), BasisSpec(rank=4)).layers)
    lora = rivals.LoraAdapter(twin, layers, 4)
    factors = lora.parameters_of("content") + lora.parameters_of("style")
    assert len(factors) == 2 * len(layers)
    assert {id(p) for p in twin.parameters() if p.requires_grad} == set(map(id, factors))


def test_published_flow_moves_only_what_its_mask_leaves(tiny):
    model, cache = model_and_cache()
    adapter = Adapter.install(copy.deepcopy(model.denoiser), BasisSpec(rank=4))
    flow = rivals.PublishedFlow(model, adapter, cache, torch.randn(3, 3, 64, 64))
    for optimizer in flow.optimizers:
        optimizer.param_groups[0]["weight_decay"] = 0.0
    before = {name: (layer.up.clone(), layer.down.clone()) for name, layer in flow.layers.items()}
    phases = []
    flow.step(0, phases.append)
    assert phases.count("data") == phases.count("backward") == 3 and phases.count("optimizer") == 2
    assert list(flow.layers) == list(adapter.layers)
    for name, (up, down) in before.items():
        layer = flow.layers[name]
        rows, columns = len(up) // 2, down.shape[1] // 2
        assert torch.equal(layer.up[:rows], up[:rows]) and (layer.up[rows:] != up[rows:]).any()
        assert torch.equal(layer.down[:, :columns], down[:, :columns])
        assert (layer.down[:, columns:] != down[:, columns:]).any()


@pytest.mark.parametrize("make", [rivals.peft_riemannian, rivals.LoopedInverse])
def test_rival_optimizers_step_along_the_same_directions(make):
    pytest.importorskip("peft.optimizers")
    torch.manual_seed(0)
    mine = [(torch.nn.Parameter(torch.randn(6, 3)), torch.nn.Parameter(torch.randn(3, 5)))]
    theirs = copy.deepcopy(mine)
    for pairs in (mine, theirs):
        for half, gradient in zip(pairs[0], (torch.ones(6, 3), torch.ones(3, 5)), strict=True):
            half.grad = gradient.clone()
    expected = riemannian.precondition(*mine[0], *(half.grad for half in mine[0]), 1e-3)
    make(theirs).step()
    for half, direction in zip(theirs[0], expected, strict=True):  # both leave it where AdamW has read it
        torch.testing.assert_close(half.grad, direction.float(), rtol=2e-2, atol=2e-3)


def test_float32_alone_still_preconditions(monkeypatch):
    torch.manual_seed(0)
    B, D = 30 * torch.randn(8, 4), torch.randn(4, 1) @ torch.randn(1, 6)  # D D^T has rank 1
    expected = riemannian.precondition(B, D, torch.ones(8, 4), torch.ones(4, 6), 1e-2)
    monkeypatch.setitem(riemannian.NO_FLOAT64, "cpu", torch.float32)
    found = riemannian.precondition(B, D, torch.ones(8, 4), torch.ones(4, 6), 1e-2)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).norm() < 1e-3 * b.norm()
    assert all(
        d.isfinite().all() for d in riemannian.precondition(B, 1e4 * D, torch.ones(8, 4), torch.ones(4, 6))
    )


def test_attention_on_a_cpu_counts_both_ways():
    q, k, v = (torch.randn(2, 3, 64, 16, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 3 * 64 * 64 * 16  # one of two forward, of five backward, where the first is made again
    attend = torch.nn.functional.scaled_dot_product_attention
    assert tflop(lambda: attend(q, k, v)) == pytest.approx(2 * product / 1e12)
    assert tflop(lambda: attend(q, k, v).sum().backward()) == pytest.approx(7 * product / 1e12)


@pytest.mark.slow
def test_a_full_size_step_fits_24_gigabytes(tmp_path, own_precision):
    """Stable Diffusion XL's architecture, random weights, bfloat16, rank 64, 512 pixels, four samples, no GPU."""
    config = BenchConfig(size="sdxl", device="cpu", gradient_checkpointing=True, rows_per_pass=1)
    loop = measured._loop(config, "content", tmp_path, models.base(config, CPU))
    named = loop.learner.named
    before = [p.detach().clone() for p in named.values()]
    measured._training("stage one", "ours", loop).step(0, lambda phase: None)
    assert any((p != old).any() for p, old in zip(named.values(), before, strict=True))
    assert peak_mb() < 24e3


@pytest.mark.gpu
def test_on_a_gpu_every_phase_has_a_time(tiny, tmp_path):
    report = bench(BenchConfig(size="small", device="cuda", rank=4, steps=2, output=str(tmp_path / "b.json")))
    ours = report["rows"][0]
    assert "math" not in ours["attention"] and "inference: base, channels first / ours" in report["ratios"]
    assert all(ours["phases"][phase] > 0 for phase in ("data", "forward", "backward", "optimizer"))
