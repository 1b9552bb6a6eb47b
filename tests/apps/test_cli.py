"""The command line: help for people, one line for bad input, the path from pictures to a LoRA."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from conftest import SIZE

from b4m.apps.cli import COMMANDS, main, parse
from b4m.config.training import ContentConfig
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


def test_evaluate_scores_a_pair_from_its_file(trained, tiny_base, folders, tmp_path, capsys):
    encoders = ROOT / "examples" / "world" / "encoders"
    models = {f"--{kind}-extractor": str(encoders / kind) for kind in ("content", "style", "prompt")}
    asked = {
        "--prompts": "a snq bear in w@z chalk style",
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
