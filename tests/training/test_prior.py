"""Prior preservation: the class's own images beside the target, drawn once, in a term of their own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SIZE, picture, refused
from loops import loaded, same_files, stop_after

from b4m.backbones.registry import open_backbone
from b4m.core.storage import read_tensors
from b4m.maths.plp import FACTORS
from b4m.methods import prior as prior_module
from b4m.methods.b4m import B4M
from b4m.training.loop import train

PRIOR = {
    "prior_images": 3,
    "prior_guidance": 1.0,
    "content_class": "bear",
    "style_class": "yarn",
    "target_rows": 1,
}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(prior_module, "STEPS", 2)


@pytest.fixture
def never_drawn(monkeypatch):
    """From here on, drawing is an error."""

    def forbid():
        monkeypatch.setattr(prior_module, "draw", lambda *arguments: 1 / 0)

    return forbid


def given(stage: str, **changes) -> dict:
    return {name: value for name, value in {**PRIOR, **changes}.items() if name != f"{other(stage)}_class"}


def other(stage: str) -> str:
    return "style" if stage == "content" else "content"


@pytest.mark.parametrize("stage", FACTORS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"partner_samples": 1, "gradient_accumulation": 2}, {"target_rows": 2, "rows_per_pass": 1}],
)
def test_both_terms_of_eq_12_stay_and_a_third_comes_beside_them(stage, changes, settings, tmp_path):
    plain = loaded(settings(stage, tmp_path / "plain", **given(stage, **changes, prior_images=0)))
    prior = loaded(settings(stage, tmp_path / "prior", **given(stage, **changes, prior_weight=0.5)))
    of_step = plain.config.gradient_accumulation
    more = prior.inputs.most_samples(of_step) - plain.inputs.most_samples(of_step)
    assert more == prior.config.target_rows, "which the estimate of memory counts"
    for index in range(of_step):
        _, target, partner = plain.micro_step(index)
        loss, *terms = prior.micro_step(index)
        assert torch.allclose(torch.stack(terms[:2]), torch.stack([target, partner]), rtol=1e-5)
        shown, losses = prior.passes[-1]
        is_prior = [place >= plain.inputs.samples for place in shown.samples]
        assert sum(is_prior) == prior.config.target_rows
        assert terms[2] == pytest.approx(0.5 * losses[torch.tensor(is_prior)].mean().item())
        assert loss == pytest.approx(sum(map(float, terms)), rel=1e-6)


@pytest.mark.parametrize("stage", FACTORS)
def test_the_prior_trains_the_concepts_own_factor_alone(stage, settings, tmp_path):
    loop = loaded(settings(stage, tmp_path, **given(stage)))
    loop.is_target, loop.is_prior = torch.zeros_like(loop.is_target), loop.is_prior
    loss, of_samples = loop.learner.loss, []

    def of_prior_alone(batch):
        of_samples.extend(batch.places)
        places = torch.tensor(batch.places)
        return loss(replace(batch, weights=batch.weights * loop.is_prior[places]))

    loop.learner.loss = of_prior_alone
    loop.micro_step(0)
    moved = {kind: 0.0 for kind in FACTORS}
    for name, parameter in loop.learner.named.items():
        moved[name.split("/")[0]] += 0.0 if parameter.grad is None else float(parameter.grad.abs().sum())
    assert moved[stage] > 0 and moved[other(stage)] == 0
    assert loop.learner.learns_from(loop.inputs.samples - 1) == {stage}
    shows = [loop.inputs.shows[place] for place in of_samples]
    assert shows == sorted(shows), "contents first, as the routing wants them"


def test_none_is_the_run_as_it_was_and_some_are_another(settings, tmp_path):
    plain, none, some = (
        train(settings("content", tmp_path / name, **changes))
        for name, changes in {
            "plain": {"content_class": "bear", "target_rows": 1, "steps": 1},
            "none": given("content", prior_images=0, prior_weight=7.0, steps=1),
            "some": given("content", steps=1),
        }.items()
    )
    assert same_files(plain.path, none.path) and plain.losses == none.losses
    assert not same_files(plain.path, some.path) and not (tmp_path / "none/prior.safetensors").exists()
    logs = {
        name: json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[0])
        for name in ("none", "some")
    }
    assert logs["some"].keys() - logs["none"].keys() == {"prior_loss"} and logs["some"]["prior_loss"] > 0


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("content", {"partner_samples": 1, "gradient_accumulation": 2}),
        ("style", {"buckets": True, "steps": 2}),
    ],
)
def test_stopped_and_continued_it_ends_in_the_same_bits(
    stage, changes, settings, tmp_path, monkeypatch, never_drawn
):
    if changes.get("buckets"):
        (tmp_path / "wide").mkdir()
        picture(5, (2 * SIZE, SIZE)).save(tmp_path / "wide/0.png")
        changes = {**changes, f"{stage}_dir": str(tmp_path / "wide"), "resolution": 32}
    whole = train(settings(stage, tmp_path / "whole", **given(stage, **changes)))
    config = settings(stage, tmp_path / "parts", **given(stage, **changes))
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(SystemExit):
            train(config)
    never_drawn()
    assert same_files(whole.path, train(config).path)


def test_they_are_the_base_models_own_and_said(settings, tmp_path, capsys):
    train(settings("content", tmp_path, **given("content")))
    tensors, metadata = read_tensors(tmp_path / "prior.safetensors")
    assert tensors["latents"].shape == (3, 4, 8, 8) and metadata["b4m.class_prompt"] == "a photo of bear"
    assert 'prior: 3 images drawn by the base model of "a photo of bear"' in capsys.readouterr().out
    entries = json.loads((tmp_path / "pictures.json").read_text())
    shown = [entry for entry in entries if entry["shows"] == "prior content"]
    assert [entry["prompt"] for entry in shown] == ["a photo of bear"]


def latents_of(config) -> torch.Tensor:
    task = B4M().task(config)
    task.start(open_backbone(config.base_model))
    return torch.stack([image.latents for image in task.inputs.images[-config.prior_images :]])


def test_drawing_goes_on_where_it_was_stopped_and_begins_anew_for_other_settings(
    settings, tmp_path, monkeypatch, never_drawn
):
    config = settings("content", tmp_path / "whole", **given("content", prior_images=10))
    whole, parts = latents_of(config), replace(config, output_dir=str(tmp_path / "parts"))
    draw = prior_module.draw

    def stopped(*arguments):
        yield next(draw(*arguments))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prior_module, "draw", stopped)
        latents_of(parts)
    path = tmp_path / "parts/prior.safetensors"
    assert len(read_tensors(path)[0]["latents"]) == 8
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(prior_module, "draw", lambda *a: asked.append([*a[2]]) or draw(*a))
        assert torch.equal(latents_of(parts), whole) and asked == [[85, 86]]
        path.write_bytes(path.read_bytes()[:-1])
        assert torch.equal(latents_of(parts), whole), "a damaged file is drawn anew"
        few = latents_of(replace(parts, prior_images=3))
        assert torch.equal(few, latents_of(replace(parts, output_dir=str(tmp_path / "few"), prior_images=3)))
        assert not torch.equal(few, latents_of(replace(parts, prior_images=3, seed=78)))
    never_drawn()
    latents_of(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"content_class": "object"}, ("--prior-images 3", "--content-class")),
        ({"content_class": " "}, ("--prior-images 3", "--content-class")),
        ({"prompt": "a photo of bear"}, ("--prior-images 3", "snq", "--prompt")),
        ({"prompt": "a photo of snq, a bear"}, ("snq", "apart from other words")),
    ],
)
def test_a_class_without_words_is_refused_before_anything_is_drawn(changes, words, settings, tmp_path):
    refused(lambda: train(settings("content", tmp_path / "run", **given("content", **changes))), *words)
    assert not Path(tmp_path / "run/prior.safetensors").exists()
