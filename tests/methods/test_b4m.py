"""The method's own jobs: where each starts, what learns at which rate, what is written, which files are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import refused, tiny_pipeline

from b4m.apps.info import describe
from b4m.backbones.latent_diffusion import denoiser_hash
from b4m.backbones.sdxl import SDXL
from b4m.config.stages import ContentConfig, SecondConfig, StyleConfig
from b4m.config.training import LORA_FILE, TrainConfig
from b4m.files.concept import load_concept, save_concept
from b4m.files.lora import load_lora
from b4m.maths.plp import FACTORS, BasisSpec
from b4m.maths.riemannian import RiemannianAdamW, RiemannianSGD
from b4m.methods.b4m import B4M
from b4m.methods.factors import FactorLearner
from b4m.methods.registry import job_named, method_of


@pytest.fixture
def second(settings, trained, tmp_path):
    """Settings of a second stage on trained files, as a function: second(lr=1e-3)."""

    def make(**changes) -> TrainConfig:
        files = {key: trained[key] for key in ("content_file", "style_file")}
        return settings("second", tmp_path, **{**files, **changes})

    return make


def begun(config: TrainConfig, widths: tuple[int, int] = (32, 64)) -> FactorLearner:
    """What learns, as the job starts."""
    return B4M().task(config).start(SDXL(tiny_pipeline(widths=widths)))


def test_its_jobs_are_found_by_name_and_by_their_settings():
    for name, job in (("content", ContentConfig), ("style", StyleConfig), ("second", SecondConfig)):
        assert job_named("b4m", name) is job and type(method_of(job)) is B4M
    refused(lambda: job_named("b4m", None), "trains content, style, second", "b4m:content")
    refused(lambda: job_named("b4m", "third"), "trains content, style, second")
    refused(lambda: job_named("words", None), "trains nothing")
    refused(lambda: method_of(TrainConfig), "TrainConfig", "no registered method")


def test_every_file_says_how_many_numbers_its_run_trained(second, trained):
    """Both factors, of which a concept's run gives one up."""
    learner = begun(second())
    learned = sum(parameter.numel() for parameter in learner.named.values())
    assert {describe(file)["trained_parameters"] for file in trained.values()} == {str(learned)}


@pytest.mark.parametrize("stage", ["content", "style"])
def test_stage_one_starts_as_the_identity_with_adamw_and_a_rate_per_factor(stage, settings, tmp_path):
    learner = begun(settings(stage, tmp_path, lr=1e-2, partner_lr=1e-3, weight_decay=0.1))
    assert not any(parameter.any() for parameter in learner.named.values())
    inputs = "principal" if stage == "content" else "cosine"
    assert learner.adapter.spec == BasisSpec(0, 4, 0.25, "exact", 8.0, inputs)
    assert learner.adapter.choice == "all"
    made = learner.optimizer()
    assert type(made) is torch.optim.AdamW
    for group, kind in zip(made.param_groups, FACTORS, strict=True):
        assert group["lr"] == (1e-2 if kind == stage else 1e-3) and group["weight_decay"] == 0.1
        assert [id(p) for p in group["params"]] == [id(p) for p in learner.stacks.factors[kind]]


@pytest.mark.parametrize(("routing", "first", "rest"), [(True, "content", "style"), (False, None, None)])
def test_samples_train_the_factor_of_their_kind(routing, first, rest, settings, tmp_path):
    learner = begun(settings("content", tmp_path, target_rows=3, routing=routing))
    kinds = [learner.learns_from(sample) for sample in range(5)]
    assert kinds == [{first} if first else {*FACTORS}] * 3 + [{rest} if rest else {*FACTORS}] * 2


def test_a_concept_file_tells_where_it_came_from(trained):
    concept = load_concept(trained["content_file"])
    assert concept.kind == "content" and concept.layers == "all"
    assert concept.metadata["prompt"] == "a photo of snq object" and concept.metadata["trigger"] == "snq"
    assert concept.metadata["steps"] == "3" and concept.metadata["training_seed"] == "77"
    assert concept.unet_hash == denoiser_hash(tiny_pipeline().unet)


def test_a_concept_file_holds_its_own_prompt_where_one_was_given(settings, tmp_path):
    learner = begun(settings("style", tmp_path, prompt="a picture as w@z paints"))
    learner.save(tmp_path, {"steps": "0"})
    concept = load_concept(tmp_path / "style.safetensors")
    assert concept.metadata["prompt"] == "a picture as w@z paints" and concept.metadata["trigger"] == "w@z"
    assert {path.name for path in tmp_path.iterdir()} == {"style.safetensors"}, "the partners' is given up"


def test_second_stage_starts_from_exactly_the_b_and_d_in_the_files(second, trained):
    learner = begun(second())
    for kind in FACTORS:
        tensors = load_concept(trained[f"{kind}_file"]).tensors
        found = learner.adapter.factor(kind)
        assert found.keys() == tensors.keys() and len(found) == 56
        assert all(torch.equal(found[layer], tensors[layer]) for layer in found)
        assert all(tensor.any() for tensor in tensors.values())


def test_second_stage_takes_basis_and_prompts_from_the_files(second):
    config = second(content_class="bear", style_class="chalk")
    assert {*B4M().task(config).inputs.prompts} == {"a photo of snq object", "a picture in w@z art style"}
    adapter = begun(config).adapter
    assert (adapter.spec.rank, adapter.spec.scale, adapter.choice) == (4, 8.0, "all")


def test_second_stage_sends_every_sample_to_both(second):
    learner = begun(second(target_rows=2))
    assert learner.shows is None
    assert [learner.learns_from(sample) for sample in range(4)] == [{*FACTORS}] * 4


def test_files_that_do_not_fit_are_refused(second, trained, tmp_path):
    refused(lambda: B4M().task(second(content_file=trained["style_file"])), "style")
    concept = load_concept(trained["content_file"])
    for change in ({"seed": 5}, {"kind": "random"}, {"ratio": 0.5}):
        spec = replace(concept.spec, inputs="cosine", **change)
        other = str(tmp_path / "other.safetensors")
        save_concept(other, replace(concept, spec=spec, inputs={}))
        refused(lambda file=other: B4M().task(second(content_file=file)), *change.values())
    refused(lambda: begun(second(), widths=(32, 96)), "the content file was made for another UNet")


@pytest.mark.parametrize(
    ("name", "cls"),
    [("riemannian-adamw", RiemannianAdamW), ("riemannian-sgd", RiemannianSGD), ("adamw", torch.optim.AdamW)],
)
def test_second_stage_optimizers(name, cls, second):
    damping = {} if name == "adamw" else {"damping": 2e-3}
    made = begun(second(optimizer=name, lr=1e-3, weight_decay=0.1, **damping)).optimizer()
    assert type(made) is cls
    assert [group["lr"] for group in made.param_groups] == [1e-3, 1e-3]
    assert [group["weight_decay"] for group in made.param_groups] == [0.1, 0.1]
    assert all(group.get("damping", 2e-3) == 2e-3 for group in made.param_groups)


def test_the_fused_file_holds_both_factors_and_their_origin(second, tmp_path):
    learner = begun(second())
    learner.save(tmp_path, {"steps": "0"})
    layers, metadata = load_lora(tmp_path / LORA_FILE)
    for layer, (up, down) in learner.adapter.lora().items():
        assert torch.equal(layers[layer][0], up) and torch.equal(layers[layer][1], down)
    assert metadata["b4m.unet_hash"] == denoiser_hash(learner.backbone.denoiser)
    assert metadata["b4m.steps"] == "0" and metadata["b4m.layers"] == "all"
    assert metadata["b4m.content_prompt"] == "a photo of snq object"
    assert metadata["b4m.style_trigger"] == "w@z"
    assert [Path(path).name for path in tmp_path.iterdir()] == [LORA_FILE]
