"""The second stage by distillation: what it is taught, that it learns it, that a run stopped anywhere is the same."""

import json

import pytest
import torch
from conftest import refused
from loops import files_of, loaded, same_files, stop_after

from b4m.backbones.registry import open_backbone
from b4m.config.stages import PAIR_PROMPTS
from b4m.core.storage import read_tensors
from b4m.maths.composing import BASE, composed_predictions
from b4m.methods import teaching
from b4m.sampling.attach import attach
from b4m.sampling.composed import composed
from b4m.sampling.sample import sample
from b4m.training.loop import train

TAUGHT = {
    "objective": "distill",
    "teacher_paths": 5,
    "pair_prompts": ("a {content} in {style} style", "a {content} in {style} yarn"),
    "target_rows": 1,
    "content_dir": (),
    "style_dir": (),
}


@pytest.fixture(autouse=True)
def short_paths(monkeypatch):
    monkeypatch.setattr(teaching, "STEPS", 3)


@pytest.fixture
def second(settings, trained):
    def make(folder, **changes):
        return settings("second", folder, **{**files_of(trained, "second"), **TAUGHT, **changes})

    return make


def test_the_answers_are_the_sum_that_sampling_draws_with(second, trained, tmp_path):
    """v* on the teacher's states, by the hooks of --compose predictions; under no prompt the base model's own."""
    weights = {"content_weight": 0.7, "style_weight": 1.2}
    learner = loaded(second(tmp_path, **weights)).learner
    teacher, prompts = learner.teacher, learner.inputs.prompts
    backbone = open_backbone(learner.config.base_model)
    attach(backbone, trained["content_file"], trained["style_file"])
    for path, prompt in ((0, prompts[0]), (1, prompts[1])):
        asked = backbone.encode_guided([prompt], None)
        given = {
            "hidden": torch.cat([asked["negative_prompt_embeds"], asked["prompt_embeds"]]),
            "pooled": torch.cat([asked["negative_pooled_prompt_embeds"], asked["pooled_prompt_embeds"]]),
            "time_ids": torch.tensor([[16.0, 16, 0, 0, 16, 16]] * 2),
        }
        for step, timestep in enumerate(teacher.timesteps):
            states = teacher.states[[path, path], step]
            with torch.no_grad(), composed(backbone, [BASE, composed_predictions(0.7, 1.2)]) as dials:
                empty, answer = backbone.denoiser(
                    states,
                    timestep,
                    **backbone.arguments(given),
                    cross_attention_kwargs=dials,
                    return_dict=False,
                )[0]
            assert torch.allclose(answer, teacher.answers[path, step], atol=1e-4)
            of_empty = next(i for i, text in enumerate(prompts) if not text) + path
            assert torch.allclose(empty, teacher.answers[of_empty, step], atol=1e-4)
            assert torch.equal(teacher.states[of_empty, step], teacher.states[path, step])


def test_the_paths_are_those_on_which_sampling_draws(second, trained, tmp_path):
    """Guided against the base: `--compose predictions --negative base` passes the same states."""
    learner = loaded(second(tmp_path, teacher_guidance=3.0)).learner
    backbone = open_backbone(learner.config.base_model)
    attach(backbone, trained["content_file"], trained["style_file"])
    passed = []
    backbone.denoiser.register_forward_pre_hook(lambda _, given: passed.append(given[0][0].clone()))
    ways = {"steps": 3, "guidance": 3.0, "size": 16, "negative": "base", "compose": "predictions"}
    sample(backbone, [learner.inputs.prompts[1]], [learner.config.seed + 1], **ways)
    assert torch.allclose(torch.stack(passed), learner.teacher.states[1], atol=1e-3)


def test_the_empty_prompt_is_read_as_guided_sampling_reads_it(second, tmp_path):
    """SDXL's pipeline takes zeros there, not what its encoders make of no words."""
    loop = loaded(second(tmp_path))
    empty = loop.inputs.prompts.index("")
    told = loop.cache.conditions(torch.tensor([empty, 0]))
    unguided = open_backbone(loop.config.base_model).encode_unguided()
    assert all(torch.equal(told[name][0], row[0]) for name, row in unguided.items())
    assert all(told[name][1].any() for name in unguided), "a prompt with words keeps its own"


def test_the_student_comes_closer_to_its_teacher_and_learns_from_no_image(second, tmp_path):
    result = train(second(tmp_path, steps=15, lr=6e-3, optimizer="adamw"))
    first, last = sum(result.losses[:4]), sum(result.losses[-4:])
    assert last < 0.7 * first
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert entry["teacher_loss"] == pytest.approx(entry["loss"]) and entry["target_loss"] == 0
    told = read_tensors(result.path)[1]
    assert told["b4m.objective"] == "distill" and told["b4m.teacher_guidance"] == "1.5"


def test_both_adds_the_teacher_to_the_papers_loss(second, settings, trained, folders, tmp_path):
    shown = {"content_dir": folders["content"], "style_dir": folders["style"]}
    plain = loaded(settings("second", tmp_path / "plain", target_rows=1, **files_of(trained, "second")))
    both = loaded(second(tmp_path / "both", objective="both", **shown))
    distilled = loaded(second(tmp_path / "distill"))
    _, content, style = plain.micro_step(0)
    loss, *terms = both.micro_step(0)
    assert torch.allclose(torch.stack(terms[:2]), torch.stack([content, style]), rtol=1e-4)
    assert terms[2] > 0 and loss == pytest.approx(sum(map(float, terms)), rel=1e-5)
    assert both.inputs.samples == plain.inputs.samples + distilled.inputs.samples


def test_killed_while_the_teacher_draws_or_while_the_student_learns_it_is_the_same_run(
    second, tmp_path, monkeypatch
):
    whole = train(second(tmp_path / "whole")).path
    run = teaching._batches

    def killed(config, backbone, lessons, there):
        for number, some in enumerate(run(config, backbone, lessons, there)):
            if number == 1:
                raise KeyboardInterrupt
            yield some

    monkeypatch.setattr(teaching, "_batches", killed)
    with pytest.raises(KeyboardInterrupt):
        train(second(tmp_path / "parts"))
    kept = read_tensors(tmp_path / "parts" / teaching.TEACHER)[0]["states"]
    assert len(kept) == teaching.AT_ONCE, "the batch that was whole"
    monkeypatch.setattr(teaching, "_batches", run)
    with monkeypatch.context() as stopping:
        stop_after(stopping, 2)
        with pytest.raises(SystemExit):
            train(second(tmp_path / "parts"))
    monkeypatch.setattr(
        teaching, "_batches", lambda *arguments: 1 / 0
    )  # all is there: nothing is drawn again
    parts = train(second(tmp_path / "parts")).path
    assert same_files(whole, parts)
    assert same_files(tmp_path / "whole" / teaching.TEACHER, tmp_path / "parts" / teaching.TEACHER)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"torn"), None])
def test_paths_of_other_settings_or_a_damaged_file_are_drawn_anew(spoil, second, tmp_path):
    before = loaded(second(tmp_path)).learner.teacher.answers
    if spoil:
        spoil(tmp_path / teaching.TEACHER)
    again = loaded(second(tmp_path, style_weight=1.0 if spoil else 0.5)).learner.teacher.answers
    assert torch.equal(before, again) == bool(spoil)


def test_what_cannot_be_taught_is_refused(second, tmp_path):
    refused(lambda: second(tmp_path, objective="both"), "--content-dir", "--objective distill")
    pictures = {"objective": "pictures", "teacher_paths": 16, "pair_prompts": PAIR_PROMPTS}
    refused(lambda: second(tmp_path, **pictures), "--content-dir", "--objective distill")
    refused(lambda: second(tmp_path, **pictures, style_weight=2), "--style-weight", "leave it out")
    refused(lambda: second(tmp_path, snr_gamma=5), "--snr-gamma", "leave it out")
    refused(lambda: second(tmp_path, pair_prompts=()), "--pair-prompts", "at least one")
    refused(lambda: second(tmp_path, content_weight=0, style_weight=0), "--content-weight", "base model")
    refused(lambda: train(second(tmp_path, pair_prompts=("a {thing}",))), "--pair-prompts", "{content}")
