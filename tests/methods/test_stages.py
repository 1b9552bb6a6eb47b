"""The three jobs as data: rows, routing, order of the pictures, captions, starting point, learning rates."""

import dataclasses
import shutil

import pytest
import torch
from conftest import SIZE, picture, tiny_pipeline

from b4m.core.errors import UserError
from b4m.files.concept import load_concept, save_concept
from b4m.files.lora import load_lora
from b4m.maths.adapter import unet_hash
from b4m.maths.riemannian import RiemannianAdamW, RiemannianSGD
from b4m.maths.stacks import Stacks
from b4m.methods.stages import Source, gather, install, optimizer, partner_prompt, save


def test_content_rows_come_first_and_partners_are_one_row_each(settings, trained, tmp_path):
    files = {key: trained[key] for key in ("content_file", "style_file")}
    content = gather(settings("content", tmp_path, target_rows=3))
    style = gather(settings("style", tmp_path, target_rows=3))
    second = gather(settings("second", tmp_path, target_rows=3, **files))
    assert [(s.kind, s.partner, s.rows) for s in content.sources] == [
        ("content", False, 3),
        ("style", True, 1),
        ("style", True, 1),
    ]
    assert [(s.kind, s.partner, s.rows) for s in style.sources] == [
        ("content", True, 1),
        ("content", True, 1),
        ("style", False, 3),
    ]
    assert [(s.kind, s.partner, s.rows) for s in second.sources] == [
        ("content", False, 3),
        ("style", False, 3),
    ]
    assert (content.content_rows, style.content_rows, second.content_rows) == (3, 2, None)
    assert content.is_target.tolist() == [True] * 3 + [False] * 2
    assert style.is_target.tolist() == [False] * 2 + [True] * 3
    assert second.is_target.tolist() == [True] * 3 + [False] * 3


def test_rows_show_pictures_of_their_own_source(settings, tmp_path):
    stage = gather(settings("style", tmp_path))
    for step in range(20):
        rows = iter(stage.picked(77, step))
        for source in stage.sources:
            assert all(next(rows) in source.pictures for _ in range(source.rows))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_every_picture_is_shown_once_before_any_again(rows):
    source = Source("content", False, (4, 5, 6, 7, 8), rows)
    shown = [source.pick((77, 0), position) for position in range(15)]
    assert all(sorted(shown[start : start + 5]) == [4, 5, 6, 7, 8] for start in (0, 5, 10))
    assert shown[:5] != shown[5:10] or shown[5:10] != shown[10:]  # a new order every time
    assert shown != [source.pick((78, 0), position) for position in range(15)]


def test_the_order_is_a_function_of_seed_step_and_row(settings, tmp_path):
    one, two = gather(settings("content", tmp_path)), gather(settings("content", tmp_path))
    assert [one.picked(1, step) for step in range(9)] == [two.picked(1, step) for step in range(9)]
    torch.manual_seed(1)
    assert one.picked(1, 5) == two.picked(1, 5)
    assert [one.picked(1, step) for step in range(9)] != [one.picked(2, step) for step in range(9)]


def test_captions_win_over_prompts(settings, folders, tmp_path):
    shutil.copytree(folders["content"], tmp_path / "content")
    (tmp_path / "content/1.txt").write_text("a snq bear on snow")
    picture(9).save(tmp_path / "neon.png")
    (tmp_path / "neon.txt").write_text("a star in neon style")
    picture(8).save(tmp_path / "paper-cut_02.png")
    changes = {
        "content_dir": str(tmp_path / "content"),
        "partner_dirs": (str(tmp_path / "neon.png"), str(tmp_path / "paper-cut_02.png")),
    }
    plain = gather(settings("content", tmp_path, **changes, content_class="bear"))
    given = gather(settings("content", tmp_path, **changes, prompt="my bear", partner_prompts=("one", "two")))
    assert plain.prompts == (
        "a photo of snq bear",
        "a snq bear on snow",
        "a photo of snq bear",
        "a star in neon style",
        "a picture in paper cut style",
    )
    assert given.prompts == ("my bear", "a snq bear on snow", "my bear", "a star in neon style", "two")


def test_partner_prompts_from_names():
    assert partner_prompt("style", "styles/02_water-colour.png") == "a picture in water colour style"
    assert partner_prompt("content", "things/Garden House/") == "a photo of Garden House"
    assert partner_prompt("content", "123") == "a photo of another"


def second(settings, trained, tmp_path, **changes):
    files = {key: trained[key] for key in ("content_file", "style_file")}
    config = settings("second", tmp_path, **{**files, **changes})
    return config, gather(config)


def test_second_stage_starts_from_exactly_the_b_and_d_in_the_files(settings, trained, tmp_path):
    config, stage = second(settings, trained, tmp_path)
    adapter = install(stage, tiny_pipeline().unet, config.base_model)
    for kind in ("content", "style"):
        tensors = load_concept(trained[f"{kind}_file"]).tensors
        found = adapter.half(kind)
        assert found.keys() == tensors.keys() and len(found) == 56
        assert all(torch.equal(found[layer], tensors[layer]) for layer in found)
        assert all(tensor.any() for tensor in tensors.values())


def test_second_stage_takes_basis_and_prompts_from_the_files(settings, trained, tmp_path):
    config, stage = second(settings, trained, tmp_path, rank=64, basis_seed=9, layers="square")
    assert (stage.spec.rank, stage.spec.seed, stage.layers) == (4, 0, "all")
    assert set(stage.prompts) == {"a photo of snq object", "a picture in w@z art style"}


def test_files_that_do_not_fit_are_refused(settings, trained, tmp_path):
    with pytest.raises(UserError, match="style"):
        second(settings, trained, tmp_path, content_file=trained["style_file"])
    concept = load_concept(trained["content_file"])
    for change in ({"seed": 5}, {"kind": "random"}, {"ratio": 0.25}):
        spec = dataclasses.replace(concept.spec, **change)
        save_concept(tmp_path / "other.safetensors", dataclasses.replace(concept, spec=spec))
        with pytest.raises(UserError, match=str(next(iter(change.values())))):
            second(settings, trained, tmp_path, content_file=str(tmp_path / "other.safetensors"))
    config, stage = second(settings, trained, tmp_path)
    with pytest.raises(UserError, match="made for another UNet"):
        install(stage, tiny_pipeline(widths=(32, 96)).unet, config.base_model)


def test_stage_one_starts_as_the_identity_with_adamw_and_a_rate_per_half(settings, tmp_path):
    config = settings("style", tmp_path, lr=1e-2, partner_lr=1e-3, weight_decay=0.1)
    stage = gather(config)
    adapter = install(stage, tiny_pipeline().unet, config.base_model)
    assert not any(p.any() for half in ("content", "style") for p in adapter.parameters_of(half))
    stacks = Stacks(adapter.pairs())
    made = optimizer(stage, config, stacks)
    assert type(made) is torch.optim.AdamW
    for group, half, lr in zip(made.param_groups, ("content", "style"), (1e-3, 1e-2), strict=True):
        assert group["lr"] == lr and group["weight_decay"] == 0.1
        assert [id(p) for p in group["params"]] == [id(p) for p in stacks.halves[half]]


@pytest.mark.parametrize(
    ("name", "cls"),
    [("riemannian-adamw", RiemannianAdamW), ("riemannian-sgd", RiemannianSGD), ("adamw", torch.optim.AdamW)],
)
def test_second_stage_optimizers(name, cls, settings, trained, tmp_path):
    damping = {} if name == "adamw" else {"damping": 1e-3}
    config, stage = second(settings, trained, tmp_path, optimizer=name, lr=1e-3, **damping)
    adapter = install(stage, tiny_pipeline().unet, config.base_model)
    made = optimizer(stage, config, Stacks(adapter.pairs()))
    assert type(made) is cls
    assert [group["lr"] for group in made.param_groups] == [1e-3, 1e-3]
    assert all(group.get("damping", 1e-3) == 1e-3 for group in made.param_groups)


def test_results_hold_the_halves_and_their_origin(settings, trained, tmp_path):
    config, stage = second(settings, trained, tmp_path)
    unet = tiny_pipeline().unet
    adapter = install(stage, unet, config.base_model)
    save(stage, config, adapter, unet, tmp_path / "fused.safetensors", {"steps": "0"})
    layers, metadata = load_lora(tmp_path / "fused.safetensors")
    for layer, (up, down) in adapter.lora().items():
        assert torch.equal(layers[layer][0], up) and torch.equal(layers[layer][1], down)
    assert metadata["b4m.unet_hash"] == unet_hash(unet) and metadata["b4m.steps"] == "0"
    assert (
        metadata["b4m.content_prompt"] == "a photo of snq object" and metadata["b4m.style_trigger"] == "w@z"
    )
    concept = load_concept(trained["content_file"])
    assert concept.metadata["prompt"] == "a photo of snq object" and concept.metadata["steps"] == "3"
    assert concept.unet_hash == unet_hash(unet)


def test_missing_pictures_are_refused(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    for stage, change in (
        ("content", {"content_dir": str(tmp_path / "none")}),
        ("content", {"partner_dirs": (str(tmp_path / "empty"),)}),
    ):
        with pytest.raises(UserError, match="none|empty"):
            gather(settings(stage, tmp_path, **change))


def test_pictures_are_read_at_the_resolution(settings, tmp_path):
    assert {p.pixels.shape for p in gather(settings("content", tmp_path)).pictures} == {(3, SIZE, SIZE)}
