"""What a newcomer meets first: the README's commands, the scripts, the quickstart from end to end."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from b4m.apps.cli import main
from b4m.apps.commands import COMMANDS
from b4m.config.fields import flag
from b4m.config.presets import PRESETS
from b4m.config.resolve import resolve
from b4m.config.stages import JOBS, SecondConfig
from b4m.core.errors import UserError
from b4m.data.images import load_folder
from b4m.evaluation.manifest import read_manifest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCRIPTS = sorted((ROOT / "code").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_whole(script):
    assert len(script.read_text().splitlines()) <= 25
    subprocess.run(["bash", "-n", script], check=True)


def test_readme_names_only_what_is_there():
    commands = re.findall(r"^    (.+?)(?: \\)?$", README, re.MULTILINE)
    assert "bash code/quickstart.sh" in commands and "bash code/test.sh" in commands
    for path in re.findall(r"(?:bash|python) ((?:code|examples)/[\w/.]+|infer\.py)", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path


def test_readme_flags_are_flags():
    settings = [command.settings for command in COMMANDS.values() if command.settings]
    known = {flag(name) for cls in settings for name in cls.__dataclass_fields__}
    known |= {"--preset", "--config", "--dry-run", "--help"}  # of the commands
    known |= {
        "--content",
        "--style",
        "--output",
        "--seeds",
        "--num_processes",
    }  # of the quickstart and accelerate
    assert set(re.findall(r"(?<=[\s`(])--[a-z_-]+", README)) <= known


def test_ci_runs_the_readme_test_command():
    assert "bash code/test.sh" in (ROOT / ".ci/run").read_text()


def test_example_configs_are_settings():
    for file in sorted((ROOT / "examples/configs").glob("sdxl-*.yaml")):
        stage = {"sdxl-content": "content", "sdxl-style": "style", "sdxl-second-stage": "second"}[file.stem]
        config = resolve(JOBS[stage], None, file)
        published = {**PRESETS["sdxl"]["train"], **(PRESETS["sdxl"]["second"] if stage == "second" else {})}
        read = {key: value for key, value in published.items() if hasattr(config, key)}
        assert {key: getattr(config, key) for key in read} == read and len(read) >= 6
        assert yaml.safe_load(file.read_text())["preset"] == "sdxl"


def test_the_distilled_config_is_what_the_study_asks_about():
    file = ROOT / "examples/configs/embedded-distilled.yaml"
    config = resolve(SecondConfig, None, file, content_file="c", style_file="s")
    study = yaml.safe_load((ROOT / "examples/configs/studies/any-tool.yaml").read_text())
    row = study["rows"]["distilled"]["second"]
    assert config == resolve(SecondConfig, "embedded", content_file="c", style_file="s", **row)
    assert config.objective == "distill"


@contextmanager
def in_this_process(number: int):
    """In place of the quickstart's processes: a fork of this one would find the threads of other tests gone."""

    class Here(Executor):
        def submit(self, function, *given):
            done = Future()
            done.set_result(function(*given))
            return done

    yield Here()


def threads_and_process() -> tuple[int, int]:
    return torch.get_num_threads(), os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes begin anew, which takes seconds")
def test_the_quickstarts_processes_share_the_cores_and_end(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import quickstart

    with quickstart.processes(2) as pool:
        threads, process = pool.submit(threads_and_process).result()
    assert threads == max(1, os.cpu_count() // 2) and process != os.getpid()
    prepare = quickstart.prepare

    def late(*given) -> None:
        """As one that has just been forked, which no signal reaches yet."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(0.5)
        prepare(*given)

    monkeypatch.setattr(quickstart, "prepare", late)
    with pytest.raises(UserError, match="no such"), quickstart.processes(2) as pool:
        under_way = [pool.submit(time.sleep, 10) for _ in range(2)]
        while not all(future.running() for future in under_way):
            time.sleep(0.01)
        raise UserError("no such file")
    assert all(isinstance(future.exception(), BrokenProcessPool) for future in under_way), "not waited for"
    assert not multiprocessing.active_children()


def test_the_quickstart_writes_what_it_promises(tmp_path, monkeypatch, capsys):
    """Two steps a stage and one seed: every file, every variant, every number, none of the skill."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import quickstart

    for row in ("train", "content", "second"):
        monkeypatch.setitem(PRESETS["embedded"][row], "steps", 2)
    monkeypatch.setattr(quickstart, "processes", in_this_process)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--seeds", "1", "--output", str(tmp_path / "out")])
    assert quickstart.main() == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    for name in ("content.safetensors", "style.safetensors", "pytorch_lora_weights.safetensors"):
        assert main(["info", str(tmp_path / "out" / name)]) == 0
    assert (tmp_path / "out/grid.png").stat().st_size > 50_000
    scored = {shot.prompt for shot in read_manifest(tmp_path / "out/pictures")}
    assert scored == {
        prompt.replace("snq ", "").replace("w@z ", "") for prompt in report["scores"]["prompts"]
    }
    assert {stage: len(facts["losses"]) for stage, facts in report["stages"].items()} == dict.fromkeys(
        ("content", "style", "second"), 2
    )
    assert all(facts["seconds"] > 0 and facts["peak_mb"] > 0 for facts in report["stages"].values())
    assert set(report["scores"]) >= {
        "base model",
        "content only",
        "style only",
        "both, fused by the second stage",
    }
    printed = capsys.readouterr().out
    for variant, row in report["scores"].items():
        if isinstance(row, dict):
            for name in ("content", "style", "prompt", "average"):
                assert "{mean:.3f} [{low:.3f}, {high:.3f}]".format(**row[name]) in printed, variant


@pytest.mark.slow
def test_the_whole_quickstart_teaches_content_and_style(tmp_path):
    """Content and style accuracy of the fused result clearly above the base model's."""
    out = tmp_path / "quickstart"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, ROOT / "examples/quickstart.py", "--seeds", "16", "--output", out]
    subprocess.run(command, check=True, env=env)
    scores = json.loads((out / "report.json").read_text())["scores"]
    assert scores["pictures"] >= 64
    both, base = scores["both, fused by the second stage"], scores["base model"]
    for what in ("content", "style", "content_right", "style_right"):
        assert both[what]["low"] > base[what]["high"]


@pytest.mark.parametrize("kind", ["styles", "contents"])
def test_partners_are_drawn_once_with_ones_own_base_model(kind, tiny_base, tmp_path, monkeypatch, capsys):
    from partners import draw as drawing

    short = {name: name[:4] for name in drawing.KINDS[kind]}  # the tiny base reads few tokens
    monkeypatch.setitem(drawing.KINDS, kind, short)
    flags = ["--base-model", tiny_base, "--preset", "embedded", "--size", "16", "--steps", "1"]
    command = [kind, *flags, "--output-dir", str(tmp_path)]
    assert drawing.main(command) == 0
    paths = capsys.readouterr().out.splitlines()
    assert len(paths) == 5 and all(Path(path).stem in drawing.KINDS[kind] for path in paths)
    assert load_folder(Path(paths[0]).parent, 16)[0].caption in drawing.KINDS[kind].values()
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "draw", None)
        assert drawing.main(command) == 0 and capsys.readouterr().out.splitlines() == paths
    assert drawing.main([*command, "--guidance", "3"]) == 0  # others, beside the first
    assert not set(capsys.readouterr().out.splitlines()) & set(paths)
    assert drawing.main([kind, "--base-model", tiny_base]) == 2 and "--preset" in capsys.readouterr().err
    assert drawing.main([]) == 2 and "PARTNER_DIRS" in capsys.readouterr().err
    for own in (["--seeds", "5"], ["--prompts", "x"], ["--dry-run"], ["--grid"]):
        assert drawing.main([*command, *own]) == 2 and own[0] in capsys.readouterr().err


def test_no_script_hands_its_own_arguments_to_the_installation():
    """A sourced file without arguments reads those of the script: `quickstart.sh --content bear` would install them."""
    lines = [line for script in SCRIPTS for line in script.read_text(encoding="utf-8").splitlines()]
    sourced = [line for line in lines if line.startswith("source ") and "environment.sh" in line]
    assert len(sourced) >= 3
    assert all(re.search(r'environment\.sh" +"', line) for line in sourced), sourced
