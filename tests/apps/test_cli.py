"""The command line: help for people, one line for bad input, the path from pictures to a LoRA."""

import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SIZE
from PIL import Image

from b4m.apps.cli import main
from b4m.apps.commands import COMMANDS
from b4m.apps.flags import parse
from b4m.config.stages import ContentConfig
from b4m.files.concept import load_concept
from b4m.files.lora import load_lora

ROOT = Path(__file__).parents[2]


def words(command: str, *given: dict[str, str | Sequence[str] | None]) -> list[str]:
    """A command line. The flags of later dictionaries win over earlier ones; None leaves a flag out."""
    flags = {flag: value for some in given for flag, value in some.items()}
    listed = {
        flag: [value] if isinstance(value, str) else value
        for flag, value in flags.items()
        if value is not None
    }
    return [command, *(word for flag, values in listed.items() for word in (flag, *values))]


@pytest.fixture
def common(tiny_base, tmp_path) -> dict[str, str]:
    """Flags of every training command on the tiny base; a second stage has no rank of its own."""
    return {
        "--base-model": tiny_base,
        "--preset": "embedded",
        "--resolution": str(SIZE),
        "--rank": "4",
        "--steps": "2",
        "--output-dir": str(tmp_path / "out"),
    }


def content(common, folders, **changes) -> list[str]:
    own = {"--content-dir": folders["content"], "--partner-dirs": folders["styles"]}
    return words("train-content", common, own, changes)


def second(common, folders, *changes) -> list[str]:
    own = {"--rank": None, "--content-dir": folders["content"], "--style-dir": folders["style"]}
    return words("second-stage", common, own, *changes)


def pair(content_file, style_file) -> dict[str, str]:
    return {"--content-file": str(content_file), "--style-file": str(style_file)}


def refused(arguments, capsys, tmp_path, message) -> None:
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("b4m: error: ") and err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before  # nothing written


def test_the_path_from_pictures_to_a_lora(common, folders, tiny_base, tmp_path, capsys):
    assert main(content(common, folders)) == 0
    concept = str(tmp_path / "out/content.safetensors")
    assert concept in capsys.readouterr().out.splitlines()[-1]
    own = {"--style-dir": folders["style"], "--partner-dirs": folders["contents"]}
    assert main(words("train-style", common, own, {"--output-dir": str(tmp_path / "style")})) == 0
    style = str(tmp_path / "style/style.safetensors")
    files = pair(concept, style)
    assert main(second(common, folders, files, {"--output-dir": str(tmp_path / "fused")})) == 0
    fused = str(tmp_path / "fused/pytorch_lora_weights.safetensors")
    draw = {
        "--base-model": tiny_base,
        "--preset": "embedded",
        "--size": str(SIZE),
        "--steps": "2",
        "--prompts": "a bear",
        "--seeds": ("1", "2"),
        "--output-dir": str(tmp_path / "pictures"),
    }
    for source in ({"--lora-file": fused}, files, {"--content-file": concept}, {}):
        capsys.readouterr()
        assert main(words("generate", draw, source)) == 0
        drawn = capsys.readouterr().out.splitlines()
        assert len(drawn) == 2 and all(Path(line).exists() for line in drawn)
    out = {"--base-model": tiny_base, "--output": str(tmp_path / "both.safetensors")}
    assert main(words("export", files, out)) == 0
    layers, _ = load_lora(tmp_path / "both.safetensors")
    B, D = (load_concept(file).tensors for file in (concept, style))
    for layer, (up, down) in layers.items():
        assert (up[-len(B[layer]) :] - B[layer]).abs().max() <= 1e-3 * B[layer].abs().max()  # fp16
        assert (down[:, -D[layer].shape[1] :] - D[layer]).abs().max() <= 1e-3 * D[layer].abs().max()
    for file, text in ((concept, "content"), (style, "style"), (fused, "LoRA")):
        capsys.readouterr()
        assert main(["info", file]) == 0
        assert text in capsys.readouterr().out


def test_settings_files(common, folders, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"content-dir": folders["content"], "steps": 9, "lr": 0.5})
    )
    given = {"--config": str(tmp_path / "run.yaml"), "--partner-dirs": folders["styles"]}
    assert main([*words("train-content", common, given), "--dry-run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["steps"], shown["lr"], shown["content_dir"]) == (2, 0.5, [folders["content"]])
    assert ContentConfig(**shown).partner_dirs == folders["styles"]
    assert not (tmp_path / "out").exists()


def test_dry_run_checks_pictures_and_writes_nothing(common, folders, capsys, tmp_path):
    refused(
        [*content(common, folders, **{"--content-dir": "/nowhere/bear"}), "--dry-run"],
        capsys,
        tmp_path,
        "/nowhere/bear",
    )
    assert main([*content(common, folders), "--dry-run", "--gradient-checkpointing"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["gradient_checkpointing"] is True
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_was_given_in_comments(common, folders, capsys, tmp_path):
    shutil.copytree(folders["content"], tmp_path / "in/sub")
    (tmp_path / "in/1.png").write_bytes((tmp_path / "in/sub/1.png").read_bytes())
    (tmp_path / "in/1.txt").write_text("a bear in " + "yarn style " * 9)
    given = content(common, folders, **{"--content-dir": str(tmp_path / "in")})
    assert main([*given, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "# content: 1 image; captions: 1 from .txt",
        "sub (3 images)",
        "the word snq",
        "16 tokens",
        "yarn style",
    ):
        assert words in shown
    assert yaml.safe_load(shown)["content_dir"] == [str(tmp_path / "in")]
    assert main([*given, "--base-model", "/nowhere/base", "--dry-run"]) == 0
    assert "# captions: not checked for their length" in capsys.readouterr().out


def test_bad_training_input(common, folders, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for changes, message in (
        ({"--content-dir": ["/nowhere/bear"]}, "/nowhere/bear"),
        ({"--content-dir": [str(tmp_path / "empty")]}, "empty"),
        ({"--content-dir": [str(tmp_path / "half.png")]}, "half.png"),
        ({"--partner-dirs": [str(tmp_path / "empty")]}, "empty"),
        ({"--base-model": ["/nowhere/base"]}, "/nowhere/base"),
        ({"--base-model": [folders["content"]]}, "model_index.json"),
        ({"--resolution": ["17"]}, "--resolution 17"),
        ({"--steps": ["many"]}, "--steps 'many'"),
        ({"--steps": []}, "--steps"),
        ({"--nonsense": ["1"]}, "--nonsense"),
        ({"--style-dir": ["x"]}, "--style-dir"),
        ({"--config": ["/nowhere/run.yaml"]}, "/nowhere/run.yaml"),
        ({"--preset": ["huge"]}, "huge"),
        ({"--basis": ["svd"]}, "svd"),
        ({"--mixed-precision": ["fp16"]}, "fp16"),
        ({"--vae": ["/nowhere/vae"]}, "/nowhere/vae"),
    ):
        if message == "fp16" and __import__("torch").cuda.is_available():
            continue
        refused(content(common, folders, **changes), capsys, tmp_path, message)
    refused(words("train-content", common), capsys, tmp_path, "--content-dir")
    refused(content(common, folders, **{"--preset": None}), capsys, tmp_path, "say with --preset")
    refused(["fly"], capsys, tmp_path, "fly")
    refused([], capsys, tmp_path, "command")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--resume_from_checkpoint", "latest"],
            "--resume_from_checkpoint: a run that was stopped goes on by itself",
        ),
        (["--train_batch_size=4"], "--train_batch_size: it is --target-rows here"),
        (["--max-train-steps", "9"], "it is --steps here"),
        (["--contentdir", "x"], "is --content-dir meant?"),
        (["--lr", "1e-4", "1e-5"], "unrecognized arguments: 1e-5"),
        (["--no-routing", "-steps", "5"], "unrecognized arguments: -steps 5"),
    ],
)
def test_flags_of_other_tools_are_answered_with_ours(flags, message, common, folders, capsys, tmp_path):
    refused([*content(common, folders), *flags], capsys, tmp_path, message)
    if flags[0] in ("--resume_from_checkpoint", "--train_batch_size=4"):
        refused([*words("train", {}), "joint", *flags], capsys, tmp_path, message)


def test_underscores_and_values_with_a_dash_are_read(common, folders, capsys):
    underscored = [word.replace("-", "_") if word in common else word for word in content(common, folders)]
    underscored = [f"--{word.lstrip('_')}" if word.startswith("__") else word for word in underscored]
    assert main([*underscored, "--no_routing", "--content_class=_a_b", "--dry_run"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["routing"], shown["content_class"], shown["steps"]) == (False, "_a_b", 2)
    draw = [
        "generate",
        "--prompts",
        "-a bear",
        "--negative-prompt",
        "-blurry",
        "--seeds",
        "3..5",
        "--dry-run",
    ]
    assert main(draw) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["prompts"], shown["negative_prompt"], shown["seeds"]) == (["-a bear"], "-blurry", [3, 4, 5])


def elsewhere(base: str, tmp_path) -> dict[str, dict[str, str]]:
    """The other commands that put two files onto a base model, and what they need besides."""
    draw = {
        "--preset": "embedded",
        "--size": str(SIZE),
        "--prompts": "x",
        "--output-dir": str(tmp_path / "p"),
    }
    return {
        "export": {"--base-model": base, "--output": str(tmp_path / "x.safetensors")},
        "generate": {"--base-model": base, **draw},
    }


def test_files_that_do_not_belong_together(
    common, folders, settings, trained, tiny_base, tmp_path_factory, tmp_path, capsys
):
    from b4m.training.loop import train

    wide = str(train(settings("style", tmp_path_factory.mktemp("wide"), rank=8, steps=1)).path)
    files = pair(trained["content_file"], wide)
    for given, message in (
        (files, "rank 4 against 8"),
        (pair(wide, wide), "style"),
        (pair(trained["lora_file"], wide), "not a concept file"),
    ):
        refused(second(common, folders, given), capsys, tmp_path, message)
    for command, out in elsewhere(tiny_base, tmp_path).items():
        refused(words(command, out, files), capsys, tmp_path, "rank 4 against 8")
    refused(["info", str(tmp_path / "none.safetensors")], capsys, tmp_path, "none.safetensors")
    refused(["info", str(Path(tiny_base) / "model_index.json")], capsys, tmp_path, "model_index.json")


def test_a_base_of_another_shape_is_refused(common, folders, trained, tmp_path_factory, tmp_path, capsys):
    from conftest import tiny_pipeline

    other = tmp_path_factory.mktemp("other") / "base"
    tiny_pipeline(widths=(32, 96)).save_pretrained(other)
    files = pair(trained["content_file"], trained["style_file"])
    refused(
        second(common, folders, files, {"--base-model": str(other)}),
        capsys,
        tmp_path,
        "made for another UNet",
    )
    for command, out in elsewhere(str(other), tmp_path).items():
        refused(words(command, out, files), capsys, tmp_path, "made for another UNet")


def test_export_folds_strengths_in(trained, tiny_base, tmp_path, capsys):
    files = ["--content-file", trained["content_file"], "--style-file", trained["style_file"]]
    strengths = ["--content-strength", "0.5", "--style-strength", "2", "--dtype", "fp32"]
    one, two, whole = (
        str(tmp_path / name) for name in ("one.safetensors", "two.safetensors", "whole.safetensors")
    )
    assert main(["export", "--base-model", tiny_base, *files, *strengths, "--output", one]) == 0
    assert main(["export", "--base-model", tiny_base, *files, "--dtype", "fp32", "--output", whole]) == 0
    assert main(["export", "--lora-file", whole, *strengths, "--output", two]) == 0
    B, D = (load_concept(trained[f"{kind}_file"]).tensors for kind in ("content", "style"))
    layers, again = load_lora(one)[0], load_lora(two)[0]
    for layer, (up, down) in layers.items():
        assert (up[-len(B[layer]) :] == 0.5 * B[layer]).all() and (
            down[:, -D[layer].shape[1] :] == 2 * D[layer]
        ).all()
        assert (up == again[layer][0]).all() and (down == again[layer][1]).all()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_explains_and_gives_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert COMMANDS[command].help in text and f"example: b4m {command}" in text
    assert "None" not in text and "dataclass" not in text


def test_examples_in_the_help_are_valid_commands():
    for command in COMMANDS.values():
        for one in (command, *command.actions.values()):
            parse(shlex.split(one.example)[1:])


def test_program_runs_as_a_module(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "b4m", "generate", "--preset", "embedded"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("b4m: error: --prompts") and done.stderr.count("\n") == 1


def shell(script, environment, *arguments) -> subprocess.CompletedProcess:
    tools = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PRESET": "embedded", **environment}
    return subprocess.run(
        ["bash", str(ROOT / "code" / script), *arguments], env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_shell_scripts_and_infer(tiny_base, folders, tmp_path):
    flags = ["--resolution", str(SIZE), "--steps", "2"]
    one = {"BASE_MODEL": tiny_base, "CONTENT_DIR": folders["content"], "STYLE_DIR": folders["style"]}
    files = {
        "CONTENT_FILE": f"{tmp_path}/c/content.safetensors",
        "STYLE_FILE": f"{tmp_path}/s/style.safetensors",
    }
    for script, extra, out in (
        ("train_content.sh", {"PARTNER_DIRS": " ".join(folders["styles"])}, "c"),
        ("train_style.sh", {"PARTNER_DIRS": ":".join(folders["contents"])}, "s"),
        ("train_second_stage.sh", files, "f"),
    ):
        done = shell(script, {**one, **extra, "OUTPUT_DIR": str(tmp_path / out)}, *flags)
        assert done.returncode == 0, done.stderr
        assert "were not passed to `accelerate launch`" not in done.stderr and ".safetensors" in done.stdout
    bad = shell(
        "train_content.sh",
        {**one, "CONTENT_DIR": "/nowhere/bear", "OUTPUT_DIR": str(tmp_path / "bad")},
        *flags,
    )
    assert bad.returncode == 2 and bad.stderr.count("\n") == 1 and not (tmp_path / "bad").exists()
    draw = {
        "--base-model": tiny_base,
        "--preset": "embedded",
        "--size": str(SIZE),
        "--steps": "2",
        "--lora-file": f"{tmp_path}/f/pytorch_lora_weights.safetensors",
        "--output-dir": str(tmp_path / "p"),
    }
    done = infer(draw)
    assert done.returncode == 0 and (tmp_path / "p/000_seed77.png").exists(), done.stderr


def infer(*flags) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words(str(ROOT / "infer.py"), *flags)], capture_output=True, text=True
    )


def test_infer_asks_for_a_preset_as_every_command_does(tiny_base):
    done = infer({"--base-model": tiny_base})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("b4m: error: --base-model") and "say with --preset" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_two_processes_average_their_gradients(tiny_base, folders, tmp_path):
    """Two processes with one target row each see the passes of one process that accumulates two."""
    base = {"--base-model": tiny_base, "--preset": "embedded", "--resolution": str(SIZE), "--rank": "4"}
    launch = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
    for name, launcher in launch.items():
        flags = {
            "--steps": "3",
            "--target-rows": "1",
            "--output-dir": str(tmp_path / name),
            "--gradient-accumulation": "2" if name == "one" else "1",
        }
        done = subprocess.run(
            [sys.executable, *launcher, "-m", "b4m", *content({**base, **flags}, folders)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "ACCELERATE_USE_CPU": "true"},
        )
        assert done.returncode == 0, done.stderr
    one, two = (load_concept(tmp_path / name / "content.safetensors").tensors for name in launch)
    assert all((one[layer] - two[layer]).abs().max() <= 1e-6 for layer in one)
    assert max(half.abs().max() for half in one.values()) > 1e-4, "it moved"
    assert len((tmp_path / "two/log.jsonl").read_text().splitlines()) == 3
    assert '"processes": 2' in next((tmp_path / "two/state").rglob("state.json")).read_text()


def test_inspect_takes_its_file_without_a_flag(trained, tmp_path, capsys):
    assert main(["inspect", trained["lora_file"], "--output", str(tmp_path)]) == 0
    assert "interaction" in capsys.readouterr().out
    assert (tmp_path / "inspection.png").exists() and (tmp_path / "inspection.json").exists()


def test_split_gives_the_concept_files_back(trained, tiny_base, tmp_path, capsys):
    lora = tmp_path / "pair.safetensors"
    files = ["--content-file", trained["content_file"], "--style-file", trained["style_file"]]
    assert main(["export", *files, "--base-model", tiny_base, "--output", str(lora), "--dtype", "fp32"]) == 0
    assert main(["split", "--lora-file", str(lora), "--output-dir", str(tmp_path / "apart")]) == 0
    for kind in ("content", "style"):
        ours, theirs = (
            load_concept(trained[f"{kind}_file"]),
            load_concept(tmp_path / "apart" / f"{kind}.safetensors"),
        )
        assert all(torch.equal(tensor, theirs.tensors[layer]) for layer, tensor in ours.tensors.items())


def test_study_shows_what_it_would_do(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["study", "table1-ablations", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "w/o Orth" in out and "hours left" in out
    assert main(["study", "no-such-table"]) == 2


def test_the_best_seeds_are_kept_with_their_scores(trained, tiny_base, folders, tmp_path, capsys):
    """The references are two of the images themselves: those seeds must come first."""
    encoders = ROOT / "examples" / "world" / "encoders"
    draw = {
        "--base-model": tiny_base,
        "--preset": "embedded",
        "--size": str(SIZE),
        "--steps": "2",
        "--prompts": ("a snq bear", "w@z yarn"),
        "--seeds": "0..5",
        "--lora-file": trained["lora_file"],
    }
    assert main(words("generate", draw, {"--output-dir": str(tmp_path / "all")})) == 0
    for aspect, file in (("content", "004_seed4.png"), ("style", "010_seed4.png")):
        best = {
            "--best": "2",
            f"--{aspect}-dir": str(tmp_path / "all" / file),
            f"--{aspect}-extractor": str(encoders / aspect),
            "--output-dir": str(tmp_path / aspect),
        }
        capsys.readouterr()
        assert main([*words("generate", draw, best), "--grid"]) == 0
        out, err = capsys.readouterr()
        kept = [Path(line).name for line in out.splitlines()]
        assert len(kept) == 5 and kept[-1] == "grid.png"
        assert "004_seed4.png" not in kept and kept[0 if aspect == "content" else 2].endswith("_seed4.png")
        first = Image.open(tmp_path / aspect / kept[0 if aspect == "content" else 2])
        assert first.text[f"{aspect}_alignment"] == "1.0000" and first.text["seed"] == "4"
        told = [line for line in err.splitlines() if line.startswith("best of 6")]
        assert len(told) == 2 and f"seed 4 ({aspect} 1.000)" in "".join(told) and "; all: " in told[0]
    bad = {"--best": "2", "--content-dir": "/nowhere", "--content-extractor": str(encoders / "content")}
    refused(
        words("generate", draw, bad, {"--output-dir": str(tmp_path / "no")}), capsys, tmp_path, "/nowhere"
    )


def test_the_best_are_kept_from_python_too(tiny_base, folders):
    import b4m

    encoder = str(ROOT / "examples/world/encoders/style")
    given = {"base_model": tiny_base, "preset": "embedded", "size": SIZE, "steps": 1, "prompts": "x"}
    images = b4m.generate(**given, seeds="0..3", best=1, style_dir=folders["style"], style_extractor=encoder)
    assert len(images) == 1
    assert any(
        list(images[0].getdata()) == list(each.getdata()) for each in b4m.generate(**given, seeds="0..3")
    )


def test_evaluate_scores_a_pair_from_its_file(trained, tiny_base, folders, tmp_path, capsys):
    encoders = ROOT / "examples" / "world" / "encoders"
    models = {f"--{kind}-extractor": str(encoders / kind) for kind in ("content", "style", "prompt")}
    asked = {
        "--prompts": "a snq bear in w@z yarn style",
        "--seeds": ("0", "1"),
        "--steps": "2",
        "--size": str(SIZE),
        "--content-dir": folders["content"],
        "--style-dir": folders["style"],
        "--output-dir": str(tmp_path),
    }
    base = {"--lora-file": trained["lora_file"], "--base-model": tiny_base, "--preset": "embedded"}
    assert main(words("evaluate", base, models, asked)) == 0
    out = capsys.readouterr().out
    assert "content alignment" in out and (tmp_path / "results.json").exists()


def test_a_method_is_looked_up_without_notices_of_its_libraries(monkeypatch):
    """`b4m train METHOD` imports torch to know its flags, which tells of kernels that nobody asked for."""
    log = logging.getLogger("torchao")
    monkeypatch.setattr(log, "level", logging.NOTSET)
    parse(["train", "lora:content", "--content-dir", "bear"])
    assert log.level == logging.ERROR
