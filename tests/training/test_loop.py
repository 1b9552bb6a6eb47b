"""The loop: routing as in Eq. 12, every optimizer, the same file twice, and no input that goes half-way."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, DistributedType
from conftest import SIZE, picture, refused
from loops import files_of, loaded, move, same_files, without_style_samples

from b4m.core.errors import UserError
from b4m.core.lock import exclusive
from b4m.files.concept import load_concept
from b4m.files.lora import load_lora
from b4m.maths.objective import add_noise, draw_noise, regression_target, sample_losses
from b4m.maths.plp import FACTORS
from b4m.training import loop as loop_module
from b4m.training.loop import Loop, train


def separate_passes(loop: Loop) -> dict[str, list[torch.Tensor]]:
    """Gradients of Eq. 12, one pass per sample; those of the target to one factor, the partners' to the other."""
    learner, cache, seed, step = loop.learner, loop.cache, loop.config.seed, loop.step
    backbone, alphas = learner.backbone, learner.backbone.alphas_cumprod
    shape = cache.latents[0].shape
    noise, timesteps = draw_noise(seed, step, range(loop.inputs.samples), shape, len(alphas))
    gradients = {}
    for kind in FACTORS:
        total = 0
        samples = loop.inputs.is_target if kind == loop.config.stage else ~loop.inputs.is_target
        for sample in samples.nonzero()[:, 0].tolist():
            image = torch.tensor([loop.inputs.picked(seed, step)[sample]])
            x, e, t = cache.latents[image][None], noise[[sample]], timesteps[[sample]]
            noisy = add_noise(x, e, t, alphas).to(backbone.denoiser.dtype)
            out = backbone.denoiser(noisy, t, **backbone.arguments(cache.conditions(image))).sample
            target = regression_target(x, e, t, alphas, backbone.prediction_type)
            total = total + sample_losses(out, target)[0] / samples.sum()
        gradients[kind] = torch.autograd.grad(total, learner.adapter.parameters_of(kind))
    return gradients


@pytest.mark.parametrize("stage", ["content", "style"])
def test_one_routed_pass_equals_the_separate_passes(stage, settings, tmp_path):
    loop = loaded(settings(stage, tmp_path, target_rows=2, lr=0.05, partner_lr=0.05))
    # In float64, so that only the routing is compared, and not the order of float32 sums.
    loop.learner.backbone.denoiser.double()
    by_prompt = {name: rows.double() for name, rows in loop.cache.by_prompt.items()}
    loop.cache = replace(loop.cache, by_prompt=by_prompt)
    for loop.step in range(2):  # the second time from factors that are not zero
        loop.learner.zero_grad()
        loop.micro_step(0)
        expected = separate_passes(loop)
        for kind in FACTORS:
            for parameter, gradient in zip(
                loop.learner.adapter.parameters_of(kind), expected[kind], strict=True
            ):
                assert gradient.abs().max() > 0
                assert (parameter.grad - gradient).abs().max() <= 1e-6 * gradient.abs().max()
        move(loop)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("stage", ["content", "style"])
def test_sampled_partners_have_the_gradient_of_all_in_the_mean(
    stage, k, settings, folders, tmp_path, monkeypatch
):
    """Over an epoch, from one point and under one noise, k partners a step give the gradient of the full sum."""
    partners = sorted(str(path) for path in Path(folders["content"]).iterdir())[:3]
    common = {"partner_dirs": partners, "gradient_accumulation": 2, "target_rows": 2}
    other = {"content": "style", "style": "content"}[stage]
    noise = torch.randn(4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(0))

    def one_noise(seed, step, samples, shape, train_timesteps):
        return noise.expand(len(samples), *noise.shape), torch.full((len(samples),), 500)

    monkeypatch.setattr(loop_module, "draw_noise", one_noise)

    def mean_gradients(name: str, steps: int, **changes) -> list[torch.Tensor]:
        loop = loaded(settings(stage, tmp_path / name, **common, **changes))
        loop.learner.zero_grad()
        for loop.step in range(steps):
            for index in range(2):
                loop.micro_step(index)
        return [parameter.grad / steps for parameter in loop.learner.adapter.parameters_of(other)]

    sampled, full = mean_gradients("sampled", 3 // k, partner_samples=k), mean_gradients("all", 1)
    for found, expected in zip(sampled, full, strict=True):
        assert expected.abs().max() > 0
        assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_the_content_loss_gives_the_style_factor_nothing(settings, tmp_path):
    """Make the partners' loss vanish: what then reaches D came from the content, and must be exactly zero."""
    loop = loaded(settings("content", tmp_path))
    loop.is_target = torch.ones(loop.inputs.samples, dtype=torch.bool)
    loop.is_target[-1] = False
    without_style_samples(loop)
    loop.micro_step(0)
    assert all(parameter.grad.any() for parameter in loop.learner.adapter.parameters_of("content"))
    assert not any(parameter.grad.any() for parameter in loop.learner.adapter.parameters_of("style"))


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("content", {}),
        ("style", {}),
        ("second", {"optimizer": "adamw"}),
        ("second", {"optimizer": "riemannian-adamw"}),
        ("second", {"optimizer": "riemannian-sgd"}),
    ],
)
def test_every_optimizer_sees_gradients_and_moves_both_factors(
    stage, changes, settings, trained, tmp_path, monkeypatch
):
    loop = loaded(settings(stage, tmp_path, **files_of(trained, stage), **changes))
    named = loop.learner.named
    before = [parameter.detach().clone() for parameter in named.values()]
    seen = []
    inner = loop.optimizer.optimizer
    take = inner.step
    monkeypatch.setattr(
        inner, "step", lambda *args: (seen.append([p.grad.abs().sum() for p in named.values()]), take())
    )
    loop.micro_step(0)
    move(loop)
    assert len(seen) == 1 and all(total > 0 for total in seen[0])
    assert all(not torch.equal(old, new) for old, new in zip(before, named.values(), strict=True))


def test_second_stage_starts_from_the_files_and_sends_every_sample_to_both(settings, trained, tmp_path):
    loop = loaded(settings("second", tmp_path, **files_of(trained, "second")))
    for kind in FACTORS:
        tensors = load_concept(trained[f"{kind}_file"]).tensors
        found = loop.learner.adapter.factor(kind)
        assert all(torch.equal(tensor, tensors[layer]) for layer, tensor in found.items())
    without_style_samples(loop)  # samples of the content alone ...
    loop.micro_step(0)
    assert all(parameter.grad.any() for parameter in loop.learner.named.values())  # ... reach B and D


@pytest.mark.parametrize("stage", ["content", "second"])
def test_same_seed_same_file_another_seed_another(stage, settings, trained, tmp_path):
    files = files_of(trained, stage)
    one = train(settings(stage, tmp_path / "one", **files))
    torch.manual_seed(123)
    two = train(settings(stage, tmp_path / "two", **files))
    other = train(settings(stage, tmp_path / "other", seed=3, **files))
    assert same_files(one.path, two.path) and one.losses == two.losses
    assert not same_files(one.path, other.path) and one.losses != other.losses


def test_a_loop_is_born_whole(settings, tmp_path):
    """Whatever is true of a run can be read in one place: no step and no preview brings an attribute of its own."""
    loop = loaded(settings("content", tmp_path, preview_every=1, tracker="tensorboard"))
    born = {*vars(loop)}
    loop.book.start([], "tensorboard")
    loop.run([], print)
    loop.finish()
    assert {*vars(loop)} == born
    assert loop.step == 2 and (tmp_path / "content.safetensors").exists()


def test_phases_are_told_as_they_end(settings, tmp_path):
    """A benchmark reads its clock there: one call for each phase of each part of a micro-batch."""
    loop = loaded(settings("content", tmp_path, rows_per_pass=3, gradient_accumulation=2, target_rows=2))
    phases = []
    loop.mark = phases.append
    loop.take_step()
    assert loop.inputs.samples == 4
    assert phases == 4 * ["data", "forward", "backward"] + ["optimizer"]


def test_only_b_and_d_change(settings, tmp_path):
    loop = loaded(settings("content", tmp_path, lr=0.1, partner_lr=0.1, weight_decay=0.5))
    denoiser, layers = loop.learner.backbone.denoiser, loop.learner.adapter.layers
    learnable = {id(parameter) for parameter in loop.learner.named.values()}
    frozen = [t for t in [*denoiser.parameters(), *denoiser.buffers()] if id(t) not in learnable]
    frozen += [t for layer in layers.values() for t in (layer.A, layer.C)]
    before = [tensor.clone() for tensor in frozen]
    for loop.step in range(3):
        loop.take_step()
    assert all(torch.equal(old, new) for old, new in zip(before, frozen, strict=True))


def test_accumulation_averages_the_micro_batches(settings, tmp_path):
    both = loaded(settings("content", tmp_path, gradient_accumulation=2))
    single = loaded(settings("content", tmp_path / "x", gradient_accumulation=1))
    for index in range(2):
        both.micro_step(index)
        single.step = index
        single.micro_step(0)
    for two, one in zip(both.learner.named.values(), single.learner.named.values(), strict=True):
        torch.testing.assert_close(two.grad, one.grad / 2)


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_wrappers_that_would_not_see_the_factors_are_refused(kind, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "distributed_type", kind)
    with pytest.raises(
        UserError, match=f"accelerate is set to {kind.value}.* --multi_gpu instead, and give --shard"
    ):
        train(settings("content", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"base_model": "/nowhere/base"},
        {"content_dir": "/nowhere/pictures"},
        {"resolution": 18},
        {"vae": "/nowhere/vae"},
    ],
)
def test_bad_input_writes_nothing(changes, settings, tmp_path):
    with pytest.raises(UserError):
        train(settings("content", tmp_path / "out", **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(settings, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="--output-dir"):
        train(settings("content", tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_second_run_into_one_folder_is_refused(settings, tmp_path):
    config = settings("content", tmp_path / "run")
    (tmp_path / "run").mkdir()
    with exclusive(tmp_path / "run"), pytest.raises(UserError, match="another run is at work in this folder"):
        train(config)
    assert not (tmp_path / "run" / "log.jsonl").exists()
    train(config)


def test_content_dir_may_be_images(settings, folders, tmp_path):
    files = tuple(str(Path(folders["content"]) / f"{i}.png") for i in (0, 2))
    loop = loaded(settings("content", tmp_path, content_dir=files))
    assert [image.path.name for image in loop.inputs.images[:2]] == ["0.png", "2.png"]
    assert len(loop.inputs.sources[0].images) == 2 and len(loop.cache.latents) == 5


def test_the_fused_file_is_finite_and_differs_from_its_start(trained):
    layers, _ = load_lora(trained["lora_file"])
    B = load_concept(trained["content_file"]).tensors
    assert all(not torch.equal(up[-len(B[layer]) :], B[layer]) for layer, (up, _) in layers.items())
    assert all(factor.isfinite().all() for pair in layers.values() for factor in pair)


@pytest.mark.parametrize(
    ("changes", "reaches"),
    [({}, "its own"), ({"routing": False}, "both"), ({"ratio": 0.0, "routing": False}, "both")],
    ids=["w/o MCP-I", "without routing", "JTtrain"],
)
def test_joint_run_learns_both_from_nothing(changes, reaches, settings, tmp_path):
    loop = loaded(settings("joint", tmp_path / "joint", **changes))
    without_style_samples(loop)
    loop.micro_step(0)
    total = {name: parameter.grad.abs().sum() for name, parameter in loop.learner.named.items()}
    assert all(value > 0 for name, value in total.items() if name.startswith("content"))
    if reaches == "its own":
        assert not any(value > 0 for name, value in total.items() if name.startswith("style"))
    elif "ratio" not in changes:  # at ratio 0, B is zero at the start, and D waits for it as in any LoRA
        assert all(value > 0 for name, value in total.items() if name.startswith("style"))


def test_at_ratio_zero_both_factors_learn(settings, tmp_path):
    loop = loaded(settings("joint", tmp_path, ratio=0.0, routing=False, lr=0.01))
    before = [parameter.detach().clone() for parameter in loop.learner.named.values()]
    for loop.step in range(2):
        loop.take_step()
    found = loop.learner.named.values()
    assert all(not torch.equal(old, new) for old, new in zip(before, found, strict=True))


def transparent(folder: Path) -> str:
    """A content of one image, half of it transparent."""
    folder.mkdir()
    image = picture(3).convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, SIZE // 2, SIZE))
    image.save(folder / "0.png")
    return str(folder)


def test_what_a_mask_leaves_out_teaches_nothing(settings, tmp_path):
    """A prediction that is wrong there only has the same loss; without the mask it has not."""
    losses = {}
    for alpha in ("white", "mask"):
        loop = loaded(
            settings(
                "content", tmp_path / alpha, content_dir=transparent(tmp_path / f"in-{alpha}"), alpha=alpha
            )
        )
        predict = loop.learner.backbone.predict
        for wrong in (False, True):

            def predicted(*arguments, wrong=wrong, predict=predict):
                out = predict(*arguments)
                return out + wrong * (torch.arange(out.shape[-1]) < out.shape[-1] // 2)

            loop.learner.backbone.predict = predicted
            loop.passes = []
            loop.micro_step(0)
            losses[alpha, wrong] = loop.passes[0][1][0]
    assert losses["mask", True] == losses["mask", False] and losses["white", True] != losses["white", False]


def test_a_mask_of_opaque_images_changes_no_bit_and_one_of_others_does(settings, tmp_path):
    changes = {"content_dir": transparent(tmp_path / "in"), "steps": 1}
    white, mask = [
        train(settings("content", tmp_path / alpha, alpha=alpha, steps=1)).path for alpha in ("white", "mask")
    ]
    assert same_files(white, mask)
    white, mask = (
        train(settings("content", tmp_path / f"{alpha}-half", alpha=alpha, **changes)).path
        for alpha in ("white", "mask")
    )
    assert not same_files(white, mask)
    refused(
        lambda: train(settings("content", tmp_path / "mask-half", alpha="white", **changes)), "alpha mask"
    )
