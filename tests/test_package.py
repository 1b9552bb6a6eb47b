"""What somebody gets who installs b4m, or runs the scripts from a folder of their own: all of it, and the same bits."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import refused
from packaging.requirements import Requirement

import b4m
from b4m.apps.cli import main
from b4m.config.presets import EMBEDDED, PRESETS
from b4m.core.where import locate, matches
from b4m.data.images import load_folder
from b4m.studies.file import read_study
from b4m.studies.plan import Plan
from b4m.studies.settings import StudyConfig

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = ("world/base", "world/encoders", "references", "configs")
CONTENT = [
    "train-content", "--content-dir", "examples/references/content/car", "--content-class", "car",
    "--partner-dirs", "examples/references/partners/styles/sticker.png", "--steps", "2", "--output-dir", "out",
]  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built as `pip install .` builds it, from a copy, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", "results")
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=junk)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", *build, source], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_a_wheel_holds_all_that_a_preset_names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        record = next(name for name in archive.namelist() if name.endswith("RECORD"))
        listed = {line.split(",")[0] for line in archive.read(record).decode().splitlines()}
        metadata = archive.read(record.replace("RECORD", "METADATA")).decode()
    for folder in SHIPPED:
        files = [file for file in (ROOT / "examples" / folder).rglob("*") if file.is_file()]
        assert files and {f"b4m/{file.relative_to(ROOT).as_posix()}" for file in files} <= listed
    assert {
        "b4m/py.typed",
        "b4m/apps/api.py",
        "b4m/apps/studio/studio.css",
        "b4m/cli.py",
        "b4m/studies/page/page.html",
        "b4m/apps/vote/page/question.html",
    } <= listed
    settings = [file for file in (ROOT / "src/b4m/backbones/configs").rglob("*") if file.is_file()]
    assert len(settings) > 14
    assert {file.relative_to(ROOT / "src").as_posix() for file in settings} <= listed
    assert f"\nVersion: {b4m.__version__}\n" in metadata
    assert metadata.count("Requires-Dist: torch>=") == 1


def test_everything_required_is_pinned_and_the_version_is_one():
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    pinned = {name.lower().replace("_", "-") for name in pins}
    for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
        assert Requirement(line).name.lower() in pinned, line
    assert "version" in PROJECT["dynamic"]
    assert f"\nversion: {b4m.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_an_installed_b4m_looks_inside_itself(installed, tmp_path):
    program = f"from b4m.core.where import locate; print(locate({EMBEDDED!r}))"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, env=environment, text=True)
    assert Path(found.strip()) == installed.resolve() / "b4m" / EMBEDDED


@pytest.mark.slow
def test_an_installed_b4m_trains_and_draws_in_an_empty_folder(installed, tmp_path):
    """The same bytes as from a clone, and nothing in them says where either lies."""
    run = [sys.executable, "-m", "b4m"]
    files = {}
    for name, path in (("wheel", installed), ("clone", ROOT / "src")):
        folder = tmp_path / name
        folder.mkdir()
        environment = {**os.environ, "PYTHONPATH": str(path)}
        subprocess.run([*run, *CONTENT], cwd=folder, env=environment, check=True)
        files[name] = (folder / "out/content.safetensors").read_bytes()
    assert files["wheel"] == files["clone"]
    assert str(ROOT).encode() not in files["clone"] and b"examples/world/base" in files["clone"]
    draw = ["generate", "--content-file", "out/content.safetensors", "--prompts", "a snq car", "--steps", "2"]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    subprocess.run(
        [*run, *draw, "--output-dir", "images"], cwd=tmp_path / "wheel", env=environment, check=True
    )
    assert (tmp_path / "wheel/images/000_seed77.png").stat().st_size > 1000


def test_the_shipped_examples_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [EMBEDDED, *PRESETS["embedded"]["evaluate"].values()]
    assert all(Path(locate(name)).is_dir() for name in named)
    assert len(load_folder("examples/references/content/car", 64)) == 5
    assert matches("examples/references/style/*")[0] == "examples/references/style/papercut"


def test_a_study_plans_the_same_folders_from_anywhere(tmp_path, monkeypatch):
    def planned() -> list[str]:
        config = StudyConfig(study="references")
        return [str(path) for path in Plan(read_study(config.path, config.subjects), Path("out")).jobs]

    monkeypatch.chdir(ROOT)
    here = planned()
    monkeypatch.chdir(tmp_path)
    assert planned() == here
    refused(lambda: StudyConfig(study="nonsense"), "nonsense", "table1-ablations")


def test_older_scripts_find_the_command_line():
    ran = subprocess.run([sys.executable, "-m", "b4m.cli", "--help"], capture_output=True, text=True)
    assert ran.returncode == 0 and "train-content" in ran.stdout
    from b4m import cli

    assert cli.main is main


# the scripts, with a python and an accelerate that only say what they were given


@pytest.fixture
def script(tmp_path):
    """script("train_content.sh", *flags, NAME=value, ...) -> the words of the command that it comes to."""
    clone, tools = tmp_path / "a clone", tmp_path / "tools"
    shutil.copytree(ROOT / "code", clone / "code")
    for kind in ("styles", "contents"):
        (clone / "examples/references/partners" / kind).mkdir(parents=True)
        (clone / "examples/references/partners" / kind / "one.png").touch()
    tools.mkdir()
    for name in ("python", "accelerate"):
        (tools / name).write_text('#!/usr/bin/env bash\nprintf \'%s\\0\' "${0##*/}" "$@"\n')
        (tools / name).chmod(0o755)

    def run(name: str, *flags: str, **environment: str) -> list[str]:
        path = f"{tools}:/usr/bin:/bin"
        ran = subprocess.run(
            ["bash", clone / "code" / name, *flags], cwd=tmp_path, env={"PATH": path, **environment},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return ran.stdout.split("\0")[:-1]

    return run


def values(words: list[str], flag: str) -> list[str]:
    """What follows a flag, up to the next one."""
    rest = words[words.index(flag) + 1 :]
    return rest[: next((i for i, word in enumerate(rest) if word.startswith("--")), len(rest))]


def test_scripts_do_something_as_they_stand(script):
    words = script("train_content.sh")
    assert words[:4] == ["python", "-m", "b4m", "train-content"]
    assert values(words, "--content-dir") == ["examples/references/content/car"]
    assert values(words, "--partner-dirs") == ["examples/references/partners/styles/one.png"]
    assert values(words, "--output-dir") == ["outputs/content"] and values(words, "--content-class") == [
        "car"
    ]
    words = script("train_style.sh", "--steps", "2")
    assert values(words, "--partner-dirs") == ["examples/references/partners/contents/one.png"]
    assert words[-2:] == ["--steps", "2"]  # flags come last, and win
    words = script("train_second_stage.sh", PARTNER_DIRS="of stage one")
    assert words[3] == "second-stage" and "--partner-dirs" not in words and "--preset" not in words


@pytest.mark.parametrize(
    ("given", "partners"),
    [
        ("a b", ["a", "b"]),
        ("a b:c d", ["a b", "c d"]),
        ("a b\nc:d", ["a b", "c", "d"]),
        ("*.png", ["*.png"]),
        ("with space", ["with space"]),
        ("with:colon", ["with:colon"]),
    ],
)
def test_partners_may_hold_spaces(script, tmp_path, given, partners):
    (tmp_path / "with space").mkdir()
    (tmp_path / "with:colon").mkdir()
    assert values(script("train_content.sh", PARTNER_DIRS=given), "--partner-dirs") == partners


def test_another_base_model_brings_its_preset(script):
    words = script("train_style.sh", BASE_MODEL="my model", VAE="v", STYLE_DIR="my style")
    assert values(words, "--preset") == ["sdxl"] and values(words, "--base-model") == ["my model"]
    assert values(words, "--vae") == ["v"] and values(words, "--style-dir") == ["my style"]
    assert "--style-class" not in words
    assert values(script("train_style.sh", BASE_MODEL="m", PRESET="embedded"), "--preset") == ["embedded"]


def test_several_processes_go_through_accelerate(script):
    words = script("train_second_stage.sh", PROCESSES="2")
    assert words[:2] == ["accelerate", "launch"] and values(words, "--num_processes") == ["2"]
    assert values(words, "--module")[:2] == ["b4m", "second-stage"]


def test_partners_of_a_windows_drive_stay_whole(script):
    drives = {
        r"C:\Users\me\styles": [r"C:\Users\me\styles"],
        r"C:\My Pictures\styles": [r"C:\My Pictures\styles"],
        r"C:\a D:/b c:e": [r"C:\a", "D:/b c", "e"],
        "D:/a\nE:\\b:c": ["D:/a", r"E:\b", "c"],
    }
    for given, partners in drives.items():
        assert values(script("train_content.sh", PARTNER_DIRS=given), "--partner-dirs") == partners


@pytest.mark.parametrize(
    "own",
    [{"CONTENT_DIR": "mine"}, ["--content-dir", "mine"], ["--content_dir", "mine"], ["--config", "run.yaml"]],
)
def test_no_drawn_partner_goes_with_ones_own_images(script, own):
    """b4m then refuses the command, and says where partners come from."""
    words = script("train_content.sh", **own) if isinstance(own, dict) else script("train_content.sh", *own)
    assert "--partner-dirs" not in words and "--content-class" not in words
    assert not any("examples/references" in word for word in words)
    assert {"mine", "run.yaml"} & set(words)
    assert ("--output-dir" in words) == ("--config" not in words)  # a settings file says it


def test_no_drawn_image_goes_with_ones_own_files(script):
    for flag in ("--content_dir", "--style_dir", "--content-file", "--style_file"):
        words = script("train_second_stage.sh", flag, "mine")
        assert not any("examples/references" in word for word in words)
    assert not any("examples/references" in word for word in script("train_style.sh", "--style_dir", "mine"))
    for given in ({"CONTENT_FILE": "c"}, {"STYLE_DIR": "s"}):
        words = script("train_second_stage.sh", **given)
        assert not any("examples/references" in word for word in words)
    assert values(words, "--content-file") == ["outputs/content/content.safetensors"]
    words = script("train_second_stage.sh")
    assert values(words, "--style-dir") == ["examples/references/style/watercolour"]


def test_infer_adds_what_is_not_given_however_it_is_spelled():
    infer = runpy.run_path(str(ROOT / "infer.py"))
    assert infer["completed"]([])[:2] == ["--lora-file", infer["FUSED"]]
    for given in (
        ["--lora_file", "x", "--prompts=y"],
        ["--content-file=x", "--prompts", "y"],
        ["--config", "z"],
    ):
        assert infer["completed"](given) == given
