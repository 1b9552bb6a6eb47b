"""The adapter on one layer and on a tiny SDXL-like UNet: identity at the start, dW x, routing, install."""

import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from b4m.core.errors import UserError
from b4m.maths.adapter import Adapter, PLPAttnProcessor
from b4m.maths.plp import KINDS, BasisSpec, basis, delta_weight
from b4m.maths.projection import PLPLinear

ROWS = 4
SPEC = BasisSpec(seed=3, rank=6)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def tiny_unet(**changes) -> UNet2DConditionModel:
    """SDXL in everything but size: cross-attention width 48, levels of width 32 and 64."""
    torch.manual_seed(0)
    config = {
        "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8,
        "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
        "cross_attention_dim": 48, "attention_head_dim": (2, 4), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 24,
    }  # fmt: skip
    return UNet2DConditionModel(**{**config, **changes}).eval()


@pytest.fixture(scope="module")
def base() -> UNet2DConditionModel:
    return tiny_unet()


@pytest.fixture
def unet(base) -> UNet2DConditionModel:
    return copy.deepcopy(base)


def inputs(rows=slice(None), dtype=torch.float32) -> dict:
    """What a UNet call needs for ROWS rows, each at a timestep of its own, or for some of these rows."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape):
        return torch.randn(ROWS, *shape, generator=generator)[rows].to(dtype)

    return {
        "sample": noise(4, 8, 8),
        "timestep": torch.tensor([999, 600, 300, 1])[rows],
        "encoder_hidden_states": noise(5, 48),
        "added_cond_kwargs": {"text_embeds": noise(24), "time_ids": 8 * torch.ones(ROWS, 6)[rows].to(dtype)},
    }


def predict(unet, given=None, **options) -> torch.Tensor:
    return unet(**(given or inputs()), cross_attention_kwargs=options or None).sample


def randomize(factors, scale=0.3, seed=5):
    """Random values for B or D (or all of both)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for factor in factors:
            factor.copy_(scale * torch.randn(factor.shape, generator=generator))


def installed(unet, spec=SPEC, layers="square", scale=0.3) -> Adapter:
    """An adapter as after some training."""
    adapter = Adapter.install(unet, spec, layers)
    randomize([factor for pair in adapter.pairs() for factor in pair], scale)
    return adapter


def trained_layer(m, n, spec, scale=0.3) -> PLPLinear:
    layer = PLPLinear(m, n, spec, "layer")
    randomize([layer.B, layer.D], scale)
    return layer


def gradients(factors) -> list[torch.Tensor]:
    return [factor.grad.clone() for factor in factors]


def distance(found, expected) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / (expected.norm() + 1e-30))


SIZES = st.sampled_from(((12, 12), (7, 16), (15, 6), (1, 3), (32, 48)))
RATIOS = st.sampled_from((0, 0.25, 0.5, 1))
DTYPES = st.sampled_from((torch.float32, torch.bfloat16))


# One layer


@settings(max_examples=80, deadline=None)
@given(size=SIZES, r=st.integers(2, 9), ratio=RATIOS, kind=st.sampled_from(KINDS), dtype=DTYPES,
       rows=st.integers(1, 4), content=st.sampled_from((1.0, 0.0)), style=st.sampled_from((1.0, 0.0, 1.3)),
       data=st.data())  # fmt: skip
def test_forward_is_delta_weight_times_x(size, r, ratio, kind, dtype, rows, content, style, data):
    m, n = size
    layer = trained_layer(m, n, BasisSpec(1, r, ratio, kind))
    torch.manual_seed(0)
    x = torch.randn(rows, 3, n).to(dtype)
    content_samples = data.draw(st.none() | st.integers(0, rows))
    y = layer(x, content_samples, content, style)
    assert y.shape == (rows, 3, m) and y.dtype == dtype
    dW = delta_weight(layer.A, content * layer.B, layer.C, style * layer.D, kind)
    assert (y.double() - x.double() @ dW.double().T).norm() <= TOLERANCE[dtype] * x.norm() * (1 + dW.norm())


@settings(max_examples=60, deadline=None)
@given(size=SIZES, r=st.integers(2, 9), ratio=RATIOS, kind=st.sampled_from(KINDS), dtype=DTYPES,
       rows=st.integers(1, 4), content=st.sampled_from((1.0, 0.5)), data=st.data())  # fmt: skip
def test_gradients_are_those_of_separate_passes(size, r, ratio, kind, dtype, rows, content, data):
    m, n = size
    layer = trained_layer(m, n, BasisSpec(1, r, ratio, kind))
    torch.manual_seed(0)
    x = torch.randn(rows, 3, n).to(dtype).requires_grad_()
    grad_y = torch.randn(rows, 3, m).to(dtype)
    content_samples = data.draw(st.none() | st.integers(0, rows))
    layer(x, content_samples, content).backward(grad_y)

    # Eq. 12 as it is written: one pass per row, the other factor detached.
    B, D = (factor.detach().double().requires_grad_() for factor in (layer.B, layer.D))
    x_reference = x.detach().double().requires_grad_()
    for row in range(rows):
        b = B if content_samples is None or row < content_samples else B.detach()
        d = D if content_samples is None or row >= content_samples else D.detach()
        W_up, W_down = torch.cat([layer.A, content * b]), torch.cat([layer.C, d], 1)
        y = x_reference[row] @ W_down.double().T @ W_up.double().T
        if y.requires_grad:
            y.backward(grad_y[row].double())
    for found, expected in ((layer.B, B), (layer.D, D), (x, x_reference)):
        expected = torch.zeros_like(expected) if expected.grad is None else expected.grad
        assert found.grad.dtype == found.dtype
        scale = expected.norm() + (x.norm() + layer.B.norm() * layer.D.norm()) * grad_y.norm()
        assert (found.grad.double() - expected).norm() <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_leave_the_other_half_exactly_alone(kind, dtype):
    layer = trained_layer(16, 12, BasisSpec(rank=4, kind=kind))
    torch.manual_seed(0)
    for loss_rows, zero, not_zero in ((slice(0, 2), layer.D, layer.B), (slice(2, 5), layer.B, layer.D)):
        layer.zero_grad()
        layer(torch.randn(5, 3, 12).to(dtype), 2)[loss_rows].square().sum().backward()
        assert not zero.grad.any() and not_zero.grad.all()
    for content_samples, zero in ((5, layer.D), (0, layer.B)):  # every row is of one kind
        layer.zero_grad()
        layer(torch.randn(5, 3, 12).to(dtype), content_samples).square().sum().backward()
        assert not zero.grad.any()


@pytest.mark.parametrize("asked", [{"B"}, {"D"}, {"B", "D"}, {"x"}, {"x", "B", "D"}])
def test_only_the_gradients_asked_for_are_computed(asked):
    m, n, r, tokens, content_samples = 16, 12, 4, 3, 2
    layer = trained_layer(m, n, BasisSpec(rank=r))
    x = torch.randn(5, tokens, n)
    wanted = {"B": layer.B, "D": layer.D, "x": x}
    for name, tensor in wanted.items():
        tensor.requires_grad_(name in asked)
    with FlopCounterMode(display=False) as counter:
        layer(x, content_samples).sum().backward()
    assert {name for name, tensor in wanted.items() if tensor.grad is not None} == asked
    flops = {  # 2 per multiplication and addition
        "forward": 2 * 5 * tokens * r * (m + n),
        "h": 2 * 5 * tokens * r * m if asked & {"x", "D"} else 0,
        "x": 2 * 5 * tokens * r * n if "x" in asked else 0,
        "B": 2 * content_samples * tokens * r * layer.B.shape[0] if "B" in asked else 0,
        "D": 2 * (5 - content_samples) * tokens * r * layer.D.shape[1] if "D" in asked else 0,
    }
    assert counter.get_total_flops() == sum(flops.values())
    with torch.no_grad():
        assert not layer(x).requires_grad


def test_too_many_content_rows_are_refused():
    layer = trained_layer(16, 12, BasisSpec(rank=4))
    for content_samples in (-1, 3):
        with pytest.raises(ValueError, match="content_samples"):
            layer(torch.randn(2, 3, 12), content_samples)


def test_starts_as_the_identity_and_both_halves_get_a_gradient():
    layer = PLPLinear(16, 12, BasisSpec(rank=4), "layer")
    y = layer(torch.randn(5, 3, 12))
    assert not y.any()
    y.backward(torch.randn(5, 3, 16))
    assert layer.B.grad.any() and layer.D.grad.any()


@pytest.mark.parametrize("size", [(16, 16), (16, 12), (9, 14)])
def test_basis_and_zero_block_survive_training(size):
    m, n = size
    layer = PLPLinear(m, n, SPEC, "layer")
    A, C = basis(SPEC, "layer", m, n)
    torch.manual_seed(0)
    assert {name for name, _ in layer.named_parameters()} == {"B", "D"}
    assert {name for name, _ in layer.named_buffers()} == {"A", "C"}
    assert set(layer.state_dict()) == {"B", "D"}
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        F.mse_loss(layer(torch.randn(2, 3, n)), torch.randn(2, 3, m)).backward()
        optimizer.step()
    assert torch.equal(layer.A, A) and torch.equal(layer.C, C)
    assert layer.B.norm() > 0.5 and layer.D.norm() > 0.5
    dW = layer(torch.eye(n)[None])[0].T  # column by column, as the UNet sees it
    assert dW[: len(A), : C.shape[1]].norm() <= 1e-6 * dW.norm()


def test_dtype_conversion_of_the_unet_does_not_round_the_adapter(unet):
    adapter = installed(unet)
    before = {name: value.clone() for layer in adapter.layers.values()
              for name, value in (*layer.named_parameters(), *layer.named_buffers())}  # fmt: skip
    unet.to(torch.bfloat16)
    assert unet.conv_in.weight.dtype == torch.bfloat16
    layer = list(adapter.layers.values())[-1]
    for name, value in (*layer.named_parameters(), *layer.named_buffers()):
        assert value.dtype == torch.float32 and torch.equal(value, before[name])
    y = predict(unet, inputs(dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16 and y.isfinite().all()


def test_layer_computes_in_the_dtype_of_autocast():
    layer = trained_layer(16, 12, BasisSpec(rank=4))
    x = torch.randn(2, 3, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.backward(torch.ones_like(y))
    assert all(tensor.grad.dtype == torch.float32 and tensor.grad.any() for tensor in (x, layer.B, layer.D))


def test_works_under_autocast(unet):
    adapter = installed(unet)
    expected = predict(unet)
    with torch.autocast("cpu", torch.bfloat16):
        y = predict(unet, content_samples=2)
        y.float().square().mean().backward()
    assert distance(y, expected) < 0.05
    assert all(
        factor.grad.dtype == torch.float32 and factor.grad.any() for factor in sum(adapter.pairs(), ())
    )


# The attention processor


ATTENTIONS = {
    "self": dict(query_dim=16, heads=2, dim_head=8),
    "cross": dict(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8, bias=True),
    "groups": dict(query_dim=16, heads=2, dim_head=8, norm_num_groups=4, residual_connection=True,
                   rescale_output_factor=2.0),
    "spatial": dict(query_dim=32, heads=2, dim_head=8, spatial_norm_dim=6),
    "normed": dict(query_dim=16, cross_attention_dim=12, heads=2, dim_head=8, qk_norm="layer_norm",
                   cross_attention_norm="layer_norm"),
}  # fmt: skip


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_processor_computes_stock_attention_with_the_weights_moved(name, masked, image):
    if name == "spatial" and not image:
        pytest.skip("a spatial norm takes images")
    torch.manual_seed(0)
    attn = Attention(**ATTENTIONS[name], processor=AttnProcessor2_0()).eval()
    layers = {p: trained_layer(*attn.get_submodule(p).weight.shape, BasisSpec(rank=4, seed=i))
              for i, p in enumerate(("to_q", "to_k", "to_v", "to_out.0"))}  # fmt: skip
    x = torch.randn(3, attn.query_dim, 2, 4) if image else torch.randn(3, 8, attn.query_dim)
    context = torch.randn(3, 5, 12) if attn.cross_attention_dim == 12 else None
    tokens = 8 if context is None else 5
    mask = torch.where(torch.rand(3, 1, tokens) < 0.5, 0.0, -1e4) if masked else None
    given = {"encoder_hidden_states": context, "attention_mask": mask}
    if name == "spatial":
        given["temb"] = torch.randn(3, 6, 2, 4)
    with torch.no_grad():
        stock = attn(x, **given)
        attn.set_processor(PLPAttnProcessor({}))
        assert torch.equal(attn(x, **given), stock)
        attn.set_processor(PLPAttnProcessor(layers))
        found = attn(x, **given)
        for path, layer in layers.items():
            attn.get_submodule(path).weight += delta_weight(layer.A, layer.B, layer.C, layer.D, "exact")
        attn.set_processor(AttnProcessor2_0())
        torch.testing.assert_close(found, attn(x, **given))
    assert distance(found, stock) > 0.01


# On a UNet


@pytest.mark.parametrize("layers, projections", [("square", 6), ("all", 8)])
def test_adapted_layers(unet, layers, projections):
    adapter = Adapter.install(unet, SPEC, layers)
    blocks = {name.rsplit(".attn", 1)[0] for name in adapter.layers}
    assert len(adapter.layers) == projections * len(blocks) and len(blocks) == 7
    cross = [name for name in adapter.layers if name.endswith(("attn2.to_k", "attn2.to_v"))]
    assert len(cross) == (0 if layers == "square" else 2 * len(blocks))
    assert "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q" in adapter.layers
    for name, layer in adapter.layers.items():
        m, n = unet.get_submodule(name).weight.shape
        assert layer.B.shape[0] + layer.A.shape[0] == m and layer.C.shape[1] + layer.D.shape[1] == n
        A, C = basis(SPEC, name, m, n)
        assert torch.equal(layer.A, A) and torch.equal(layer.C, C)
    trainable = {p for p in unet.parameters() if p.requires_grad}
    assert trainable == {p for kind in ("content", "style") for p in adapter.parameters_of(kind)}
    assert [(id(B), id(D)) for B, D in adapter.pairs()] == list(
        zip(map(id, adapter.parameters_of("content")), map(id, adapter.parameters_of("style")), strict=True)
    )


@pytest.mark.parametrize("layers", ["square", "all"])
@pytest.mark.parametrize("options", [{}, {"content_samples": 2}, {"content_strength": 0.5}])
@torch.no_grad()
def test_identity_at_the_start_to_the_bit_and_stock_after_removal(unet, layers, options):
    expected, processors = predict(unet), dict(unet.attn_processors)
    adapter = Adapter.install(unet, SPEC, layers)
    assert torch.equal(predict(unet, **options), expected)
    randomize(adapter.parameters_of("content"))
    assert not torch.equal(predict(unet), expected)
    adapter.remove(unet)
    assert unet.attn_processors == processors
    assert torch.equal(predict(unet), expected)
    assert not [name for name in unet.state_dict() if "processor" in name]
    Adapter.install(unet, SPEC, layers)  # and it can be adapted again


@pytest.mark.parametrize("layers", ["square", "all"])
@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.0, 1.0), (0.6, 1.4)])
@torch.no_grad()
def test_unet_output_is_that_of_the_moved_weights(base, unet, layers, strengths):
    adapter = installed(unet, layers=layers)
    found = predict(unet, content_strength=strengths[0], style_strength=strengths[1])
    merged = copy.deepcopy(base)
    for name, (W_up, W_down) in adapter.lora(*strengths).items():
        assert W_up.dtype == W_down.dtype == torch.float32
        merged.get_submodule(name).weight += W_up @ W_down
    assert distance(found, predict(merged)) < 1e-5
    assert distance(found, predict(base)) > 1e-2


@pytest.mark.parametrize("content_samples", [0, 1, 3, 4])
def test_batched_routing_equals_the_separate_passes_of_eq_12(unet, content_samples):
    adapter = installed(unet.double())  # so that what is compared is not the rounding inside the UNet
    torch.manual_seed(0)
    content, style = adapter.parameters_of("content"), adapter.parameters_of("style")
    target, weight = torch.randn(ROWS, 4, 8, 8), torch.tensor([1.0, 0.5, 2.0, 0.7])

    def loss(prediction, rows):
        return (weight[rows] * (prediction - target[rows]).square().mean((1, 2, 3))).sum()

    given = inputs(dtype=torch.float64)
    loss(predict(unet, given, content_samples=content_samples), slice(None)).backward()
    batched = gradients(content + style)
    unet.zero_grad(set_to_none=False)
    for row in range(ROWS):
        adapter_half, other = (content, style) if row < content_samples else (style, content)
        rows = slice(row, row + 1)
        for factor in other:
            factor.requires_grad_(False)
        loss(predict(unet, inputs(rows, torch.float64)), rows).backward()
        for factor in other:
            factor.requires_grad_(True)
    for found, expected in zip(batched, gradients(content + style), strict=True):
        assert distance(found, expected) < 1e-5 or not (found.any() or expected.any())


def test_a_loss_on_some_rows_leaves_the_other_half_at_exactly_zero(unet):
    adapter = installed(unet)
    for rows, zero, other in ((slice(0, 1), "style", "content"), (slice(1, ROWS), "content", "style")):
        unet.zero_grad()
        predict(unet, content_samples=1)[rows].square().mean().backward()
        assert not any(factor.grad.any() for factor in adapter.parameters_of(zero))
        assert all(factor.grad.any() for factor in adapter.parameters_of(other))


def test_both_halves_of_every_layer_get_a_gradient_at_the_start(unet):
    adapter = Adapter.install(unet, SPEC)
    predict(unet, content_samples=2).square().mean().backward()
    assert all(factor.grad.any() for pair in adapter.pairs() for factor in pair)


def test_gradient_checkpointing_changes_no_gradient(unet):
    adapter = installed(unet)
    factors = adapter.parameters_of("content") + adapter.parameters_of("style")
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        unet.zero_grad()
        predict(unet, content_samples=2).square().mean().backward()
        found.append(gradients(factors))
    assert unet.is_gradient_checkpointing
    for plain, checkpointed in zip(*found, strict=True):
        assert distance(checkpointed, plain) < 1e-6 and plain.any()


def test_options_reach_the_processors_without_a_warning(unet, caplog):
    adapter = installed(unet)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        logging.getLogger("diffusers").addHandler(caplog.handler)
        predict(unet, content_samples=2, content_strength=0.5, style_strength=0.5)
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert not caplog.records
    with pytest.raises(ValueError, match="content_samples"):
        predict(unet, content_samples=ROWS + 1)
    assert adapter.to("cpu") is adapter


@pytest.mark.parametrize("kind", ["content", "style"])
def test_halves_round_trip(base, unet, kind):
    adapter = installed(unet)
    factor = adapter.factor(kind)
    assert list(factor) == list(adapter.layers)
    other = Adapter.install(copy.deepcopy(base), SPEC)
    other.load_factor(kind, factor)
    for name, tensor in other.factor(kind).items():
        assert torch.equal(tensor, factor[name])
        tensor.zero_()  # a copy, not the parameter
    assert all(factor.any() for factor in other.parameters_of(kind))
    empty = "style" if kind == "content" else "content"
    assert not any(factor.any() for factor in other.parameters_of(empty))


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "transposed"])
def test_a_half_that_does_not_fit_is_refused_whole(unet, fault):
    adapter = installed(unet)
    tensors = {name: tensor + 1 for name, tensor in adapter.factor("content").items()}
    name = list(tensors)[-1]
    if fault == "missing":
        del tensors[name]
    elif fault == "unknown":
        tensors[name := "mid_block.nowhere.to_q"] = torch.zeros(2, 2)
    elif fault == "shape":
        tensors[name] = tensors[name][:, :-1]
    else:
        tensors[name] = tensors[name].T
    before = adapter.factor("content")
    with pytest.raises(UserError, match=name) as error:
        adapter.load_factor("content", tensors)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[layer], now) for layer, now in adapter.factor("content").items())


def test_install_refuses_what_it_cannot_adapt(unet):
    with pytest.raises(UserError, match="square"):
        Adapter.install(unet, SPEC, "cubic")
    Adapter.install(unet, SPEC)
    with pytest.raises(UserError, match="PLPAttnProcessor already"):
        Adapter.install(unet, SPEC)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
              "mid_block_type": None}  # fmt: skip
    without = tiny_unet(**blocks)
    with pytest.raises(UserError, match="no attention"):
        Adapter.install(without, SPEC)
    assert next(without.parameters()).requires_grad, "what is refused is left as it was"


# Strengths of each sample


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["square", "all"])
def test_each_sample_may_have_strengths_of_its_own(base, unet, kind, layers):
    """As in passes of their own; where both are 0 the base model, also where A C is not zero."""
    installed(unet, BasisSpec(seed=3, rank=6, kind=kind), layers)
    content, style = (0.0, 1.0, 1.0, 0.5), (0.0, 0.0, 1.0, 2.0)
    with torch.no_grad():
        together = predict(unet, content_strength=content, style_strength=style)
        assert distance(together[:1], predict(base, inputs(slice(0, 1)))) < 1e-5
        for row in range(1, ROWS):
            some = inputs(slice(row, row + 1))
            alone = predict(unet, some, content_strength=content[row], style_strength=style[row])
            assert distance(together[row : row + 1], alone) < 1e-5
            assert distance(alone, predict(base, some)) > 1e-3


def test_strengths_of_each_sample_are_for_sampling(unet):
    installed(unet)
    with pytest.raises(ValueError, match="3 strengths for a batch of 4"):
        predict(unet, content_strength=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="for training"):
        predict(unet, content_samples=2, content_strength=(1.0,) * ROWS)


PRINCIPAL = BasisSpec(seed=3, rank=6, inputs="principal")


@pytest.mark.parametrize("layers", ["square", "all"])
def test_what_a_content_reads_is_measured_where_the_layers_are(base, unet, layers):
    adapter = Adapter.install(unet, PRINCIPAL, layers)
    with torch.no_grad(), adapter.measuring():
        predict(unet)
        predict(unet, inputs(slice(0, 2)))
    seen = {name: [] for name in adapter.layers}
    for name in adapter.layers:  # the same calls of the base itself, which the adapter has not moved
        base.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen[name].append(args[0].flatten(0, -2).double())
        )
    with torch.no_grad():
        predict(base)
        predict(base, inputs(slice(0, 2)))
    for name, layer in adapter.layers.items():
        d_in = layer.C.shape[1]
        moment = sum(x[:, :d_in].T @ x[:, :d_in] / len(x) for x in seen[name])
        power = torch.linalg.eigvalsh(moment).flip(0)[:3]
        carried = layer.C[3:].double() @ moment @ layer.C[3:].double().T
        even = power.mean() * torch.minimum(torch.ones(3), power / (1e-3 * power.mean())).diag()
        assert not layer.C[:3].any() and (carried - even).norm() < 1e-2 * even.norm(), name
        base.get_submodule(name)._forward_pre_hooks.clear()
    assert not any(layer._forward_pre_hooks for layer in adapter.layers.values())


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_inputs_that_do_not_fit_are_refused_whole(unet, fault):
    adapter = Adapter.install(unet, PRINCIPAL)
    given = {name: torch.ones_like(rows) for name, rows in adapter.inputs.items()}
    name = list(given)[-1]
    given[name] = given[name][:, :-1]
    if fault == "missing":
        del given[name]
    with pytest.raises(UserError, match=name):
        adapter.load_inputs(given)
    assert not any(layer.C.any() for layer in adapter.layers.values())
