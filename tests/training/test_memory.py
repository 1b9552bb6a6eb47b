"""Less memory, the same training: parts of a micro-batch, recomputing, half precision; and what is told of it."""

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import UNet2DConditionModel
from loops import loaded

from b4m.backbones import frozen
from b4m.backbones.latent_diffusion import LatentDiffusion
from b4m.core.errors import UserError
from b4m.training.loop import Loop, train


def gradient(loop: Loop) -> torch.Tensor:
    loop.micro_step(0)
    named = loop.learner.named.values()
    assert all(parameter.dtype == parameter.grad.dtype == torch.float32 for parameter in named)
    return torch.cat([parameter.grad.flatten() for parameter in named])


@pytest.mark.parametrize(("stage", "at_once"), [("content", 1), ("content", 3), ("style", 3), ("joint", 1)])
def test_samples_in_turn_leave_the_same_gradients(stage, at_once, settings, tmp_path):
    found = []
    for rows_per_pass in (None, at_once):
        loop = loaded(settings(stage, tmp_path, target_rows=2, lr=0.05, rows_per_pass=rows_per_pass))
        denoiser = loop.learner.backbone.denoiser
        denoiser.double()  # the adapter stays float32: what differs is the order of few sums
        shapes, inner = [], denoiser.forward
        denoiser.forward = lambda x, *a, inner=inner, shapes=shapes, **k: (
            shapes.append(len(x)),
            inner(x, *a, **doubled(k)),
        )[1]
        losses = loop.micro_step(0)
        found.append((losses, [p.grad.clone() for p in loop.learner.named.values()], shapes))
    (losses, whole, one), (others, parts, several) = found
    samples = loop.inputs.samples
    assert one == [samples] and max(several) == at_once and sum(several) == samples
    torch.testing.assert_close(others, losses, rtol=1e-6, atol=0)
    for a, b in zip(parts, whole, strict=True):
        assert b.any() and (a - b).abs().max() <= 1e-6 * b.abs().max()


def doubled(values):
    """Every floating tensor of a UNet's arguments as float64."""
    if isinstance(values, dict):
        return {key: doubled(value) for key, value in values.items()}
    return values.double() if torch.is_tensor(values) and values.is_floating_point() else values


def test_gradient_checkpointing_changes_nothing(settings, tmp_path):
    plain = gradient(loaded(settings("content", tmp_path / "a")))
    loop = loaded(settings("content", tmp_path / "b", gradient_checkpointing=True))
    assert loop.learner.backbone.denoiser.is_gradient_checkpointing
    torch.testing.assert_close(gradient(loop), plain)


@pytest.fixture
def new_precision():
    """accelerate keeps one precision per process, unless it is told to forget it: a call forgets."""

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)

    forget()
    yield forget
    forget()


def test_bfloat16_trains_the_same_thing(new_precision, settings, tmp_path):
    same = {"inputs": "cosine"}  # principal directions of near powers are not the same after rounding
    exact = gradient(loaded(settings("content", tmp_path / "float32", **same)))
    new_precision()
    loop = loaded(settings("content", tmp_path / "bfloat16", mixed_precision="bf16", **same))
    assert loop.learner.backbone.denoiser.dtype == torch.bfloat16
    rough = gradient(loop)
    assert 0 < (rough - exact).norm() <= 0.1 * exact.norm()


def test_compiled_blocks_train_the_same_thing(settings, tmp_path, monkeypatch):
    """The tracer alone, without the compiler behind it, which is no matter of ours and takes a minute."""
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    made = []
    compile_blocks = frozen.compile_blocks
    monkeypatch.setattr(
        frozen,
        "compile_blocks",
        lambda denoiser: (
            compile_blocks(denoiser, backend=backend, fullgraph=True),
            setattr(torch._dynamo.config, "suppress_errors", False),
        ),
    )

    def backend(graph, inputs):
        made.append(graph)
        return graph.forward

    plain, compiled = (
        train(settings("content", tmp_path / str(flag), steps=2, compile=flag)) for flag in (False, True)
    )
    assert made and compiled.losses == pytest.approx(plain.losses, rel=1e-4)


def test_the_denoiser_comes_to_the_device_when_the_encoders_have_left_it(settings, tmp_path, monkeypatch):
    """A card need never hold both."""
    order = []
    to, free = UNet2DConditionModel.to, LatentDiffusion.free
    monkeypatch.setattr(
        UNet2DConditionModel,
        "to",
        lambda unet, *where: (order.append(f"unet to {where[0]}"), to(unet, *where))[1],
    )
    monkeypatch.setattr(
        LatentDiffusion, "free", lambda *given, **options: (order.append("free"), free(*given, **options))
    )
    loaded(
        settings("content", tmp_path, inputs="cosine")
    )  # to measure principal ones the whole model draws first
    assert order == ["free", "unet to cpu"]


def test_training_frees_all_but_the_denoiser(settings, tmp_path):
    pipe = loaded(settings("content", tmp_path)).learner.backbone.pipe
    assert pipe.text_encoder is None and pipe.text_encoder_2 is None and pipe.vae is None
    drawing = loaded(settings("content", tmp_path, preview_every=1)).learner.backbone.pipe
    assert drawing.text_encoder is None and drawing.text_encoder_2 is None and drawing.vae is not None


def test_memory_is_estimated_before_the_first_step(settings, tmp_path, capsys, monkeypatch):
    train(settings("content", tmp_path / "a", steps=1))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory:"))
    assert "free" in line and "--rows-per-pass" not in line
    monkeypatch.setattr("b4m.backbones.footprint.free_bytes", lambda device: 1000)
    train(settings("content", tmp_path / "b", steps=1))
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory:"))
    assert all(option in line for option in ("--rows-per-pass 1", "--gradient-checkpointing", "bf16"))


def test_a_gpu_that_is_too_small_is_told_in_one_line(settings, tmp_path, monkeypatch):
    def full(self, index):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loop, "micro_step", full)
    with pytest.raises(UserError, match="--gradient-checkpointing"):
        train(settings("content", tmp_path))
