"""Settings: presets hold the published values, flags win over the file, every bad value is a UserError."""

import dataclasses

import pytest

from b4m.config.fields import to_yaml
from b4m.config.presets import PRESETS
from b4m.config.resolve import resolve
from b4m.config.sampling import GenerateConfig
from b4m.config.training import TrainConfig
from b4m.core.errors import UserError
from b4m.files.settings import ExportConfig

CONTENT = {"stage": "content", "content_dir": "c", "partner_dirs": ("s1", "s2")}
STYLE = {"stage": "style", "style_dir": "s", "partner_dirs": ("c1",)}
SECOND = {"stage": "second", "content_dir": "c", "style_dir": "s", "content_file": "b", "style_file": "d"}


def test_sdxl_preset_is_the_published_recipe():
    config = resolve(TrainConfig, "sdxl", **CONTENT)
    assert (config.rank, config.resolution, config.target_rows, config.gradient_accumulation) == (
        64,
        512,
        1,
        4,
    )
    assert (config.steps, config.lr, config.partner_lr, config.lr_schedule) == (1000, 1e-4, 1e-5, "constant")
    assert (config.ratio, config.basis, config.layers) == (0.5, "exact", "square")
    second = resolve(TrainConfig, "sdxl", **SECOND)
    assert (second.steps, second.lr, second.optimizer) == (60, 1e-4, "riemannian-adamw")


def test_embedded_preset():
    config = resolve(TrainConfig, "embedded", **STYLE)
    assert (config.rank, config.resolution, config.layers, config.gradient_accumulation) == (64, 64, "all", 1)
    assert (config.steps, config.lr, config.partner_lr, config.basis_scale) == (250, 1.2e-3, 4e-4, 8.0)
    assert resolve(TrainConfig, "embedded", **SECOND).steps == 20
    drawn = resolve(GenerateConfig, "embedded", prompts="x")
    assert (drawn.size, drawn.guidance) == (64, 1.3)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("flags", [CONTENT, STYLE, SECOND])
def test_written_settings_read_back_the_same(preset, flags, tmp_path):
    config = resolve(TrainConfig, preset, **flags)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert resolve(TrainConfig, None, tmp_path / "run.yaml") == config


def test_naming_a_base_model_means_sdxl_settings():
    assert resolve(TrainConfig, **CONTENT).resolution == 64
    assert resolve(TrainConfig, **CONTENT, base_model="x/y").resolution == 512
    assert resolve(TrainConfig, "embedded", **CONTENT, base_model="x/y").resolution == 64


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "rank: 8\nsteps: 7\nlr: 1e-4\npartner-dirs: [a, b, c]\npreset: embedded\n"
    )
    config = resolve(TrainConfig, None, tmp_path / "run.yaml", stage="content", content_dir="c", rank=4)
    assert (config.rank, config.steps, config.lr, config.partner_dirs) == (4, 7, 1e-4, ("a", "b", "c"))
    assert config.resolution == 64  # the preset's


@pytest.mark.parametrize("text", ["ranks: 8\n", "- a\n- b\n", "rank: [1\n", "3: 4\n"])
def test_a_file_that_says_nothing_we_know_is_refused(text, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match="run.yaml"):
        resolve(TrainConfig, None, tmp_path / "run.yaml", **CONTENT)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="none.yaml"):
        resolve(TrainConfig, None, tmp_path / "none.yaml", **CONTENT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "ten"),
        ("steps", 0),
        ("steps", 2.5),
        ("steps", True),
        ("rank", 1),
        ("rank", -2),
        ("ratio", 1.5),
        ("lr", "nan"),
        ("lr", -1e-4),
        ("basis", "svd"),
        ("fit", "squash"),
        ("mixed_precision", "fp8"),
        ("content_dir", 3),
        ("gradient_checkpointing", "yes"),
        ("partner_dirs", {"a": 1}),
        ("partner_dirs", ()),
        ("content_dir", None),
        ("partner_prompts", ("one",)),
        ("damping", 0),
        ("snr_gamma", "five"),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")) as caught:
        resolve(TrainConfig, "embedded", **{**CONTENT, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("other", [{"compile": True}, {"quantize": "int8"}])
def test_a_model_that_is_spread_is_neither_compiled_nor_quantized(other):
    with pytest.raises(UserError, match="--shard goes without --compile and --quantize"):
        resolve(TrainConfig, "embedded", **CONTENT, shard=True, **other)


@pytest.mark.parametrize("name", ["content_dir", "style_dir", "content_file", "style_file"])
def test_second_stage_needs_both_sides(name):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        resolve(TrainConfig, "embedded", **{**SECOND, name: None})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompts": "x", "seeds": ()},
        {"prompts": "x", "size": 0},
        {"prompts": "x", "lora_file": "l", "style_file": "s"},
    ],
)
def test_generate_settings_are_checked(options):
    with pytest.raises(UserError):
        resolve(GenerateConfig, "embedded", **options)


@pytest.mark.parametrize("options", [{}, {"output": "x.bin", "lora_file": "l"}, {"output": "x.safetensors"}])
def test_export_settings_are_checked(options):
    with pytest.raises(UserError):
        resolve(ExportConfig, "embedded", **options)


def test_prompts_come_from_trigger_and_class_words():
    config = resolve(TrainConfig, "sdxl", **CONTENT, content_class="teddybear", style_class="yarn art")
    assert config.content_prompt == "a photo of snq teddybear"
    assert config.style_prompt == "a picture in w@z yarn art style"
    assert config.both_prompt == "a photo of snq teddybear in w@z yarn art style"


@pytest.mark.parametrize("cls", [TrainConfig, GenerateConfig, ExportConfig])
def test_every_setting_is_documented_and_frozen(cls):
    assert all(len(field.metadata["doc"]) > 8 for field in dataclasses.fields(cls))
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(ExportConfig, output="x.safetensors", lora_file="l").dtype = "fp32"


@pytest.mark.parametrize(
    "value", ["9" * 400, 10**400, 10**6000, "1" * 6000], ids=["text", "int", "huge int", "huge text"]
)
def test_a_number_of_hundreds_of_digits_is_one_line(value):
    with pytest.raises(UserError, match="--lr") as error:
        resolve(TrainConfig, **CONTENT, lr=value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("text", ["lr: 2001-13-45", "steps: " + "1" * 5000, "[" * 5000, "lr: !!timestamp 9"])
def test_odd_yaml_is_one_line(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match="x.yaml|--steps"):
        resolve(TrainConfig, None, tmp_path / "x.yaml", **CONTENT)
