"""Settings: presets hold the published values, flags win over the file, every bad value is a UserError."""

import dataclasses
import re
from dataclasses import dataclass, fields, replace

import pytest
import yaml
from conftest import refused

from b4m.config.fields import (
    InputPath,
    ModelName,
    OutputPath,
    changed,
    check,
    deciding,
    setting,
    sides,
    to_yaml,
)
from b4m.config.foreign import ANSWERS, RENAMED
from b4m.config.presets import EMBEDDED, PRESETS, SDXL
from b4m.config.resolve import presets_of, resolve
from b4m.config.sampling import DrawnWith, GenerateConfig
from b4m.config.stages import JOBS, ContentConfig, Factors, JointConfig, Partners, SecondConfig, StyleConfig
from b4m.config.training import ShowsStyle, TrainConfig
from b4m.core.errors import UserError
from b4m.evaluation.settings import EvaluateConfig
from b4m.files.settings import ExportConfig, SplitConfig
from b4m.methods.low_rank import LoraStyleConfig
from b4m.sampling.sample import drawn_with
from b4m.studies.plan import _key
from b4m.training.resume import GROWS, check_same, settings_of

CONTENT = {"content_dir": "c", "partner_dirs": ("s1", "s2")}
STYLE = {"style_dir": "s", "partner_dirs": ("c1", "c2")}
BOTH = {"content_dir": "c", "style_dir": "s"}
SECOND = {**BOTH, "content_file": "b", "style_file": "d"}
ONE_RATE = {"lr": 0.001, "partner_lr": 0.001}  # as --prodigy wants it
GIVEN = {
    ContentConfig: CONTENT | ONE_RATE,
    StyleConfig: STYLE | ONE_RATE,
    SecondConfig: SECOND | {"objective": "both", "teacher_guidance": 3.0},  # reads everything
    JointConfig: BOTH,
}


# presets, file and flags


def test_sdxl_preset_is_the_published_recipe():
    config = resolve(ContentConfig, "sdxl", **CONTENT)
    assert (config.rank, config.resolution, config.target_rows, config.gradient_accumulation) == (
        64,
        512,
        1,
        4,
    )
    assert (config.steps, config.lr, config.partner_lr, config.lr_schedule) == (1000, 1e-4, 1e-5, "constant")
    assert (config.ratio, config.basis, config.layers) == (0.5, "exact", "square")
    second = resolve(SecondConfig, "sdxl", **SECOND)
    assert (second.steps, second.lr, second.optimizer) == (60, 1e-4, "riemannian-adamw")


def test_embedded_preset():
    config = resolve(StyleConfig, "embedded", **STYLE)
    assert (config.rank, config.resolution, config.layers, config.gradient_accumulation) == (
        32,
        128,
        "all",
        1,
    )
    joint = resolve(JointConfig, "embedded", content_dir="c", style_dir="s")
    assert (joint.rank, joint.lr, joint.steps) == (64, 1.2e-3, 200)
    lora = resolve(LoraStyleConfig, "embedded", style_dir="s")
    assert (lora.rank, lora.lr, lora.steps) == (64, 6e-4, 100)
    assert (config.steps, config.lr, config.partner_lr, config.basis_scale) == (100, 4.5e-4, 1.5e-4, 8.0)
    assert config.ratio == 0.25
    content = resolve(ContentConfig, "embedded", **CONTENT)
    assert (content.steps, content.lr, content.partner_lr) == (100, 4.5e-4, 1.5e-4)
    assert config.partner_samples == content.partner_samples == 1
    second = resolve(SecondConfig, "embedded", **SECOND)
    assert (second.steps, second.lr, second.optimizer, second.lr_schedule) == (40, 1.2e-3, "adamw", "cosine")
    drawn = resolve(GenerateConfig, "embedded", prompts="x")
    assert (drawn.size, drawn.steps, drawn.guidance) == (128, 8, 2.5)


def test_presets_say_nothing_that_no_settings_class_reads():
    classes = (*JOBS.values(), GenerateConfig, EvaluateConfig, ExportConfig)
    for preset in PRESETS.values():
        for row, values in preset.items():
            read = {f.name for cls in classes if row in presets_of(cls) for f in fields(cls)}
            assert values.keys() <= read, row


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("cls", GIVEN)
def test_written_settings_read_back_the_same(preset, cls, tmp_path):
    config = resolve(cls, preset, **GIVEN[cls])
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert resolve(cls, None, tmp_path / "run.yaml") == config


def test_the_embedded_base_needs_no_preset_to_be_named():
    plain = resolve(ContentConfig, **CONTENT)
    assert (plain.base_model, plain.resolution) == (EMBEDDED, 128)
    assert resolve(ContentConfig, **CONTENT, base_model=EMBEDDED) == plain


@pytest.mark.parametrize("base_model", ["x/y", SDXL, "/a/folder"])
@pytest.mark.parametrize("cls", [*GIVEN, GenerateConfig, EvaluateConfig])
def test_with_another_base_model_a_preset_must_be_named(cls, base_model, tmp_path):
    drawn = {"prompts": "x", "lora_file": "l"}
    given = {EvaluateConfig: {**drawn, **BOTH}, GenerateConfig: drawn, **GIVEN}[cls]
    refused(lambda: resolve(cls, **given, base_model=base_model), "--base-model", base_model, "--preset")
    (tmp_path / "run.yaml").write_text(f"base-model: {base_model}\n")
    refused(lambda: resolve(cls, None, tmp_path / "run.yaml", **given), "--preset")
    found = {}
    for preset in PRESETS:
        found[preset] = resolve(cls, preset, **given, base_model=base_model)
        (tmp_path / "run.yaml").write_text(f"base-model: {base_model}\npreset: {preset}\n")
        assert resolve(cls, None, tmp_path / "run.yaml", **given) == found[preset]
        assert found[preset].base_model == base_model
    assert found["sdxl"] != found["embedded"]


def test_a_job_for_which_a_preset_only_names_the_base_model_asks_for_none():
    given = {"output": "x.safetensors", "lora_file": "l"}
    assert resolve(ExportConfig, **given).base_model == EMBEDDED
    assert resolve(ExportConfig, **given, base_model="x/y").base_model == "x/y"
    drawn = resolve(
        GenerateConfig, prompts="x", base_model="x/y", size=32, steps=2, guidance=2.0, negative="base"
    )  # nothing left to say
    assert (drawn.base_model, drawn.size) == ("x/y", 32)


@pytest.mark.parametrize("preset", ["sd", "", "[embedded]", "{a: b}", "3", "true"])
def test_a_preset_that_is_none_is_refused(preset, tmp_path):
    (tmp_path / "run.yaml").write_text(f"preset: {preset}\n")
    if preset:
        refused(
            lambda: resolve(ContentConfig, None, tmp_path / "run.yaml", **CONTENT),
            "--preset",
            "sdxl, embedded",
        )
        refused(lambda: resolve(ContentConfig, preset, **CONTENT), "--preset", "sdxl, embedded")
    else:  # as if the line were not there
        assert resolve(ContentConfig, None, tmp_path / "run.yaml", **CONTENT).resolution == 128
    (tmp_path / "run.yaml").write_text("preset: sdxl\nlora-file: x\n")
    refused(lambda: resolve(SplitConfig, None, tmp_path / "run.yaml"), "unknown setting 'preset'")


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "rank: 8\nsteps: 7\nlr: 1e-4\npartner-dirs: [a, b, c]\npreset: embedded\n"
    )
    config = resolve(ContentConfig, None, tmp_path / "run.yaml", content_dir="c", rank=4)
    assert (config.rank, config.steps, config.lr, config.partner_dirs) == (4, 7, 1e-4, ("a", "b", "c"))
    assert config.resolution == 128  # the preset's
    assert resolve(ContentConfig, "sdxl", tmp_path / "run.yaml", content_dir="c").resolution == 512


@pytest.mark.parametrize("text", ["ranks: 8\n", "- a\n- b\n", "rank: [1\n", "3: 4\n", "stage: content\n"])
def test_a_file_that_says_nothing_we_know_is_refused(text, tmp_path):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match="run.yaml"):
        resolve(ContentConfig, None, tmp_path / "run.yaml", **CONTENT)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="none.yaml"):
        resolve(ContentConfig, None, tmp_path / "none.yaml", **CONTENT)


@pytest.mark.parametrize("text", ["lr: 2001-13-45", "steps: " + "1" * 5000, "[" * 5000, "lr: !!timestamp 9"])
def test_odd_yaml_is_one_line(text, tmp_path):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match="x.yaml|--steps"):
        resolve(ContentConfig, None, tmp_path / "x.yaml", **CONTENT)


# values


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
        ("snr_gamma", "five"),
    ],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")) as caught:
        resolve(ContentConfig, "embedded", **{**CONTENT, name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("damping", 0), ("optimizer", "sgd"), ("lr", "high")])
def test_a_bad_value_of_the_second_stage_is_refused_by_name(name, value):
    refused(lambda: resolve(SecondConfig, "embedded", **{**SECOND, name: value}), f"--{name}")


@pytest.mark.parametrize(
    "value", ["9" * 400, 10**400, 10**6000, "1" * 6000], ids=["text", "int", "huge int", "huge text"]
)
def test_a_number_of_hundreds_of_digits_is_one_line(value):
    with pytest.raises(UserError, match="--lr") as error:
        resolve(ContentConfig, **CONTENT, lr=value)
    assert len(str(error.value)) < 400


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


@pytest.mark.parametrize("cls", [*GIVEN, GenerateConfig, ExportConfig])
def test_every_setting_is_documented_and_frozen(cls):
    assert all(len(field.metadata["doc"]) > 8 for field in dataclasses.fields(cls))
    given = {
        **GIVEN,
        GenerateConfig: {"prompts": "x"},
        ExportConfig: {"output": "x.safetensors", "lora_file": "l"},
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve(cls, **given[cls]).base_model = "x"


# jobs and what they are put together from


@pytest.mark.parametrize(("cls", "name"), [(cls, name) for cls in GIVEN for name in cls.needs])
def test_what_a_job_cannot_do_without_is_refused_by_name(cls, name):
    for nothing in (None, (), ""):
        refused(
            lambda value=nothing: resolve(cls, **{**GIVEN[cls], name: value}), "--" + name.replace("_", "-")
        )
    refused(
        lambda: resolve(cls, **{key: value for key, value in GIVEN[cls].items() if key != name}),
        f"--{name.replace('_', '-')} is missing: this job needs it",
    )


def test_a_job_has_the_settings_that_it_reads_and_no_others():
    names = {job: {f.name for f in fields(cls)} for job, cls in JOBS.items()}
    apart = {
        "content_dir": {"content", "second", "joint"},
        "style_trigger": {"style", "second", "joint"},
        "partner_dirs": {"content", "style"},
        "partner_lr": {"content", "style"},
        "prompt": {"content", "style"},
        "content_file": {"second"},
        "optimizer": {"second"},
        "damping": {"second"},
        "rank": {"content", "style", "joint"},
        "routing": {"content", "style", "joint"},
        "steps": set(JOBS),
        "tracker": set(JOBS),
    }
    for name, jobs in apart.items():
        assert {job for job in JOBS if name in names[job]} == jobs, name
    refused(lambda: resolve(SecondConfig, **SECOND, rank=4), "unknown setting 'rank'")


@pytest.mark.parametrize("cls", [cls for cls in GIVEN if issubclass(cls, Partners)])
def test_every_job_with_partners_checks_their_captions(cls):
    partners = {"partner_dirs": ("a", "b")}
    refused(
        lambda: resolve(cls, **{**GIVEN[cls], **partners}, partner_prompts="one"),
        "--partner-prompts",
        "1",
        "2",
    )
    assert (
        resolve(cls, **{**GIVEN[cls], **partners}, partner_prompts=("one", "two")).partner_prompts[1] == "two"
    )


@pytest.mark.parametrize("cls", [cls for cls in GIVEN if issubclass(cls, Factors)])
def test_every_job_with_factors_checks_their_rank(cls):
    refused(lambda: resolve(cls, **GIVEN[cls], rank=1), "--rank 1")
    more = {"inputs": "cosine"} if cls is ContentConfig else {}
    assert resolve(cls, **GIVEN[cls], rank=1, basis="random", **more).rank == 1


def test_principal_inputs_go_with_the_exact_basis_alone():
    refused(lambda: resolve(ContentConfig, **CONTENT, inputs="principal", basis="random"), "--inputs cosine")


@pytest.mark.parametrize("cls", GIVEN)
@pytest.mark.parametrize("other", [{"compile": True}, {"quantize": "int8"}])
def test_a_model_that_is_spread_is_neither_compiled_nor_quantized(cls, other):
    refused(
        lambda: resolve(cls, **GIVEN[cls], shard=True, **other),
        "--shard goes without --compile and --quantize",
    )


def test_a_method_of_another_package_puts_its_settings_together_likewise():
    @dataclass(frozen=True, kw_only=True)
    class Theirs(ShowsStyle, Partners, Factors, TrainConfig):
        stage, result, needs = "theirs", "theirs.safetensors", ("style_dir",)
        words: int = setting("how many words are learned", 1, low=1)

    made = resolve(Theirs, style_dir="s", words="3")
    assert (made.words, made.resolution, made.style_dir) == (3, 128, ("s",))
    for wrong, word in (
        ({"words": 0}, "--words"),
        ({"rank": 1}, "--rank"),
        ({"partner_prompts": ("a",)}, "--partner-prompts"),
        ({"style_dir": ()}, "--style-dir is missing"),
        ({"shard": True, "compile": True}, "--shard"),
    ):
        refused(lambda wrong=wrong: resolve(Theirs, **{"style_dir": "s", **wrong}), word)


def test_prompts_come_from_trigger_and_class_words():
    words = {"content_class": "teddybear", "style_class": "yarn art"}
    content = resolve(ContentConfig, "sdxl", **CONTENT, content_class="teddybear")
    style = resolve(StyleConfig, "sdxl", **STYLE, style_class="yarn art")
    both = resolve(JointConfig, "sdxl", **BOTH, **words)
    assert content.content_prompt == both.content_prompt == "a photo of snq teddybear"
    assert style.style_prompt == both.style_prompt == "a picture in w@z yarn art style"
    assert both.both_prompt == "snq teddybear in w@z yarn art style"


# what decides a result: one flag, and the type of a path


@dataclass(frozen=True, kw_only=True)
class Heard(ContentConfig):
    """A content job with a setting that decides its result and one that does not, and names that mean nothing."""

    heard: int = setting("counts", 1)
    unheard: int = setting("does not count", 1, affects_result=False)
    something_output: str = setting("text, whatever it is called", "")
    study: str = setting("text, whatever it is called", "")
    words: InputPath | None = setting("a path, whatever it is called", None)
    more_words: tuple[InputPath, ...] = setting("paths, whatever they are called", ())
    place: OutputPath = setting("a path that is written, whatever it is called", "out")
    teacher: ModelName | None = setting("a model, whatever it is called", None)


def other(config: object, name: str) -> object:
    """Another value of a field, which its checks let pass."""
    field = config.__dataclass_fields__[name]
    value = getattr(config, name)
    if field.metadata["choices"]:
        return next(choice for choice in field.metadata["choices"] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value / 2 if isinstance(value, float) else value + 1
    if isinstance(value, tuple):
        return (*value, "other") if not value or isinstance(value[0], str) else (*value, 1)
    numbers = {"rows_per_pass": 1, "snr_gamma": 5.0, "damping": 1e-3}
    return numbers.get(name, f"{value or ''}other")


def altered(config: object) -> dict[str, object]:
    """The settings with one of them changed, by its name."""
    beside = {
        "basis": {"inputs": "cosine"} if hasattr(config, "inputs") else {},
        "partner_dirs": {"partner_prompts": ()},
        "partner_prompts": {"partner_prompts": ("a", "b")},
        "objective": {"teacher_guidance": 1.5},  # pictures take the default
        "lora_file": {"content_file": None, "more_files": (), "more_strengths": ()},
        "more_files": {"more_strengths": ()},
        "more_strengths": {"more_strengths": (1.0, 1.0)},
    }
    return {
        f.name: replace(config, **{f.name: other(config, f.name), **beside.get(f.name, {})})
        for f in fields(config)
    }


@pytest.mark.parametrize("cls", [*GIVEN, Heard])
def test_resuming_follows_from_the_flag(cls):
    config = resolve(cls, **GIVEN.get(cls, CONTENT | ONE_RATE))
    names = {f.name for f in deciding(cls)}
    kept = settings_of(config, {}, 1)
    assert kept.keys() == {"stage", "processes", *names}
    for name, other in altered(config).items():
        now = settings_of(other, {}, 1)
        if name in names - GROWS:
            refused(lambda now=now, other=other: check_same(other, kept, now), name.replace("_", "-"))
        else:
            check_same(other, kept, now)
            check_same(config, {**kept, name: "x"}, kept)  # nor where an earlier release kept it


@pytest.mark.parametrize("cls", [*GIVEN, Heard, GenerateConfig])
def test_the_key_of_a_study_follows_from_the_flag(cls):
    more = {"content_file": "c", "more_files": ("a", "b"), "more_strengths": (0.5, 1.0)}
    drawn = {"prompts": "x", "seeds": (1, 2), "best": 1, **more, **BOTH}
    config = resolve(cls, **{GenerateConfig: drawn, Heard: CONTENT | ONE_RATE, **GIVEN}[cls])
    names = {f.name for f in deciding(cls, paths=True)} - {"seeds"}  # of images, whose files say them
    for name, other in altered(config).items():
        assert (_key(other) != _key(config)) == (name in names), name


def test_the_facts_in_an_image_follow_from_the_flag():
    config = resolve(
        GenerateConfig, prompts="x", seeds=(1, 2), grid=True, negative_prompt="n", style_file="s"
    )
    given = {f.name: getattr(config, f.name) for f in deciding(DrawnWith, paths=True)}
    assert drawn_with(config) == {
        name: str(value) for name, value in given.items() if value not in (None, ())
    }
    assert {"base_model", "style_file", "negative_prompt", "style_strength"} <= drawn_with(config).keys()
    left_out = {f.name for f in fields(GenerateConfig)} - {f.name for f in fields(DrawnWith)}
    of_the_best = {"best", "content_dir", "style_dir", "content_extractor", "style_extractor"}
    # An image has one prompt and one seed.
    assert left_out == {"output_dir", "prompts", "seeds", "grid", "overwrite", *of_the_best}


def test_the_flag_and_the_type_decide_and_no_name_does():
    own = {f.name for f in fields(Heard)} - {f.name for f in fields(ContentConfig)}
    plain = {f.name for f in deciding(Heard)} & own
    with_paths = {f.name for f in deciding(Heard, paths=True)} & own
    assert plain == {"heard", "something_output", "study", "teacher"}
    assert with_paths == plain | {"words", "more_words"}
    assert own - with_paths == {"unheard", "place"}


def test_what_other_settings_do_not_decide():
    """The settings that a run may be continued and a study extended with."""
    left_out = {cls: {f.name for f in fields(cls)} - {f.name for f in deciding(cls)} for cls in GIVEN}
    free = {
        "output_dir",
        "gradient_checkpointing",
        "rows_per_pass",
        "compile",
        "shard",
        "skip_not_finite",
        "preview_every",
        "preview_prompts",
        "preview_negative",
        "checkpoint_every",
        "tracker",
    }
    assert left_out[ContentConfig] == free | {
        "content_dir",
        "partner_dirs",
    }  # whose images are facts of their own
    assert left_out[StyleConfig] == free | {"style_dir", "partner_dirs"}
    assert left_out[JointConfig] == free | {"content_dir", "style_dir"}
    assert left_out[SecondConfig] == free | set(SecondConfig.needs) | {"content_dir", "style_dir"}


def test_a_path_is_one_by_its_type_and_not_by_its_name():
    def made(**given):
        return resolve(Heard, **CONTENT, **given)

    long = "x" * 256
    assert made(something_output=long, study=long).study == long
    assert made(something_output="", study="").something_output == ""
    for name, value in (("words", ""), ("place", ""), ("teacher", ""), ("more_words", ("a", ""))):
        refused(lambda name=name, value=value: made(**{name: value}), f"--{name.replace('_', '-')} is empty")
    for name, value in (
        ("words", long),
        ("place", f"a/{long}"),
        ("teacher", long),
        ("more_words", ("a", long)),
    ):
        refused(
            lambda name=name, value=value: made(**{name: value}), f"--{name.replace('_', '-')}", "too long"
        )
    assert made(words=None, teacher=None, more_words="a/b").more_words == ("a/b",)


def test_a_size_is_a_side_or_two():
    sizes = {64: 64, "64": 64, "1216x832": "1216x832", "832 X 1216": "832x1216", (8, 16): "8x16", "96x96": 96}
    for given, size in {**sizes, "1216×832": "1216x832"}.items():
        config = resolve(GenerateConfig, prompts="x", size=given)
        assert config.size == size and resolve(GenerateConfig, **yaml.safe_load(to_yaml(config))) == config
        assert sides(config.size) == tuple(map(int, str(size).split("x"))) * (
            2 if isinstance(size, int) else 1
        )
    for bad in ("x", "8x", "x8", "8x8x8", "8.5", True, None, "", (8,) * 3, "-8", [64, "a"], 10**5000):
        refused(lambda bad=bad: resolve(GenerateConfig, prompts="x", size=bad), "--size", "1216x832")
    for bad in ("4x64", "64x9000", 4):
        refused(
            lambda bad=bad: resolve(GenerateConfig, prompts="x", size=bad), "--size", "between 8 and 8192"
        )


def test_seeds_may_be_ranges():
    seeds = {"0..3": (0, 1, 2, 3), ("5", "7..8", 1): (5, 7, 8, 1), "4..4": (4,), 3: (3,)}
    for given, found in seeds.items():
        assert resolve(GenerateConfig, prompts="x", seeds=given).seeds == found
    drawn = {"prompts": "x", "lora_file": "l", **BOTH}
    assert resolve(EvaluateConfig, **drawn, seeds="0..31").seeds == tuple(range(32))
    for bad in ("0-3", "1,2", "3..1", "0..99999999999", "a..b", "..3", "0...3", "1 2"):
        refused(lambda bad=bad: resolve(GenerateConfig, prompts="x", seeds=bad), "--seeds", bad)
    refused(lambda: resolve(GenerateConfig, prompts="x", seeds="0-3"), "a range of them as in 0..31")
    refused(lambda: resolve(GenerateConfig, prompts="x", seeds="-1"), "--seeds -1: must be between 0 and")


def test_the_best_are_compared_with_something():
    drawn = {"prompts": "x", "seeds": "0..7"}
    assert resolve(GenerateConfig, **drawn, best=2, style_dir="s").best == 2
    refused(lambda: resolve(GenerateConfig, **drawn, best=2), "--best needs --content-dir, --style-dir")
    refused(lambda: resolve(GenerateConfig, **drawn, content_dir="c"), "--content-dir goes with --best")
    refused(lambda: resolve(GenerateConfig, **drawn, best=9, style_dir="s"), "--best 9 of 8 seeds", "0..71")


@pytest.mark.parametrize(
    ("cls", "theirs", "words"),
    [
        (ContentConfig, "train_batch_size", "--target-rows"),
        (ContentConfig, "max_train_steps", "--steps"),
        (GenerateConfig, "num_inference_steps", "--steps"),
        (ContentConfig, "learning_rate", "--lr"),
        (ContentConfig, "network_dim", "--rank"),
        (SecondConfig, "network_dim", "unknown setting"),  # whose rank is that of its files
        (ContentConfig, "instance_data_dir", "it is --content-dir here"),
        (SecondConfig, "train_data_dir", "--content-dir or --style-dir"),
        (StyleConfig, "resume_from_checkpoint", "goes on by itself"),
        (GenerateConfig, "width", "--size 1216x832"),
        (GenerateConfig, "prompt", "--prompts"),
        (GenerateConfig, "content_strenght", "is --content-strength meant?"),
        (ContentConfig, "nonsense", "known: "),
    ],
)
def test_settings_of_other_tools_are_answered_with_ours(cls, theirs, words, tmp_path):
    given = {GenerateConfig: {"prompts": "x"}, **GIVEN}[cls]
    refused(lambda: resolve(cls, **given, **{theirs: "1"}), theirs, words, limit=1500)
    (tmp_path / "run.yaml").write_text(f"{theirs}: 1\n")
    refused(lambda: resolve(cls, None, tmp_path / "run.yaml", **given), theirs, words, limit=1500)


def test_what_other_tools_call_our_settings_is_about_settings():
    classes = (*JOBS.values(), GenerateConfig, EvaluateConfig, ExportConfig)
    known = {f.name for cls in classes for f in fields(cls)}
    theirs = [name for names in (*RENAMED.values(), *ANSWERS.values()) for name in names.split()]
    assert RENAMED.keys() <= known
    for said in ANSWERS:
        assert {name.replace("-", "_") for name in re.findall(r"--([a-z-]+)", said)} <= known
    for name in theirs:
        # Another tool's name that is ours too is ours, and its answer would never be given in every job.
        assert not all(name in {f.name for f in fields(cls)} for cls in classes), name


def test_a_setting_without_a_default_must_be_given():
    @dataclass(frozen=True)
    class Small:
        word: str = setting("a word that is needed")
        numbers: dict[str, int] = setting("numbers by name", {"a": 1})

        def __post_init__(self) -> None:
            check(self)

    refused(lambda: resolve(Small), "--word is missing (a word that is needed)")
    assert resolve(Small, word="w").numbers == {"a": 1} and presets_of(Small) == ()
    assert resolve(Small, word="w", numbers={"b": "2"}).numbers == {"b": 2}
    refused(lambda: resolve(Small, word="w", numbers={1: 2}), "--numbers", "name: value")


def test_a_copy_with_other_values_is_the_one_that_replace_makes_and_checked_like_it():
    config = GenerateConfig(prompts=["a bear"], size=16)
    other = changed(config, prompts=["a car"], seeds="0..2", output_dir="there")
    assert other == replace(config, prompts=["a car"], seeds="0..2", output_dir="there")
    assert config.prompts == ("a bear",)
    refused(lambda: changed(config, prompts=["a\0"]), "--prompts")
    refused(lambda: changed(config, steps=0), "--steps 0")
