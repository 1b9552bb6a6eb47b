"""`benchmarks/gpu.sh`: every command of it can be understood, it goes on where it was cut, its base model works."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from b4m.apps.cli import main
from b4m.backbones.registry import open_backbone

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("sizes", ["FULL", "DRY"])
def test_its_flags_are_the_commands_own(scripts, tmp_path, monkeypatch, sizes):
    """Read as the command line reads them; what needs files or a GPU comes after that."""
    import gpu

    from b4m.apps import cli

    read = []
    monkeypatch.setattr(cli, "job", lambda config: lambda: read.append(config))
    for part in ("content/content", "style/style"):
        (tmp_path / part).parent.mkdir()
        (tmp_path / f"{part}.safetensors").touch()
    values = {**getattr(gpu, sizes), **gpu.partners(), "out": tmp_path}
    commands = [shlex.split(command.format(**values)) for _, _, command in gpu.STEPS]
    ours = [words[1:] for words in commands if words[0] == "b4m"]
    for words in ours:
        assert main(words) == 0, words
    assert len(read) == len(ours) == 8
    assert sum(limit for _, limit, _ in gpu.STEPS) < 2 * gpu.SECONDS


def test_it_goes_on_where_it_was_cut(scripts, tmp_path, monkeypatch, capsys):
    import gpu

    steps = [("good", 20, "python -c 'print(1)'"), ("slow", 1, "python -c 'import time; time.sleep(600)'")]
    monkeypatch.setattr(gpu, "STEPS", [*steps, ("bad", 20, "python -c exit(3)")])
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path), "--dry"])
    assert gpu.main() == 1 and "failed: slow, bad" in capsys.readouterr().out
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [rows[name]["status"] for name in rows] == [0, "cut", 3] and rows["good"]["said"] == "1"
    monkeypatch.setattr(gpu, "STEPS", [("good", 20, "python -c exit(5)"), ("slow", 20, "python -c 0")])
    assert gpu.main() == 1, "what is done is not done again; what was cut is"
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [rows[name]["status"] for name in rows] == [0, 0, 3]


def test_without_a_gpu_it_says_so(scripts, tmp_path, monkeypatch, capsys):
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", str(tmp_path)])
    assert gpu.main() == 2 and "--dry" in capsys.readouterr().err


def test_its_base_model_is_one(scripts, tmp_path):
    import random_base

    random_base.write(tmp_path, "small")
    backbone = open_backbone(str(tmp_path))
    found = backbone.encode_guided(["a car"], None)
    assert backbone.prediction_type == "epsilon" and all(tensor.isfinite().all() for tensor in found.values())
    wide = random_base.TEXTS["sdxl"]
    assert sum(one["hidden_size"] for one in wide) == random_base.UNETS["sdxl"]["cross_attention_dim"]
