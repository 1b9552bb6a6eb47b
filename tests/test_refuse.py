"""What cannot be right is refused in one line; what a stranger has sent is never run (docs/reliability.md)."""

import dataclasses
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import picture, refused
from safetensors.torch import load_file

from b4m.apps.cli import main
from b4m.apps.doctor import DoctorConfig
from b4m.apps.info import describe
from b4m.apps.studio.settings import StudioConfig
from b4m.apps.vote.settings import MakeConfig, ReportConfig, ServeConfig, SimulateConfig
from b4m.backbones.registry import open_backbone
from b4m.benchmarking.settings import BenchConfig
from b4m.config.sampling import GenerateConfig
from b4m.config.stages import ContentConfig, JointConfig, SecondConfig, StyleConfig
from b4m.core import storage
from b4m.core.errors import UserError
from b4m.core.lock import exclusive
from b4m.data import captions, decode
from b4m.data.images import load_folder
from b4m.evaluation.settings import EvaluateConfig, InspectConfig
from b4m.files.concept import load_concept, save_concept
from b4m.files.lora import load_lora
from b4m.files.settings import ExportConfig, SplitConfig
from b4m.studies.settings import LibraryConfig, StudyConfig
from b4m.training.loop import train

ROOT = Path(__file__).parent.parent
UP, DOWN = ("unet.mid_block.attn1.to_q.lora_B.weight", "unet.mid_block.attn1.to_q.lora_A.weight")


# options

NASTY = (
    "", " ", "x", "é 猫", "a\0b", "\ud800", "x" * 300, "x/" * 4000, "-1", "1e999", "nan", "9" * 5000, -1, 0, 2**70,
    -(10**30), 1e308, float("inf"), float("nan"), True, None, (), [], [[]], {}, {"a": 1}, {1: 2}, b"x",
    object(), ("",), ("\0",), (None,), "/", ".", "..", "~", "../../x", "https://x/y", "--steps", "%s{}$(x)`x`",
)  # fmt: skip
WORKING = {
    ContentConfig: {"content_dir": ("c",), "partner_dirs": ("p",)},
    StyleConfig: {"style_dir": ("s",), "partner_dirs": ("p",)},
    SecondConfig: {"content_dir": ("c",), "style_dir": ("s",), "content_file": "b", "style_file": "d"},
    JointConfig: {"content_dir": ("c",), "style_dir": ("s",)},
    GenerateConfig: {"prompts": ("x",)},
    EvaluateConfig: {"lora_file": "l", "prompts": ("x",), "content_dir": "c", "style_dir": "s"},
    StudyConfig: {"study": "table2"},
    LibraryConfig: {"build": "examples/configs/library/world.yaml"},
    InspectConfig: {"file": "f"},
    BenchConfig: {},
    DoctorConfig: {},
    MakeConfig: {"source": "s"},
    ServeConfig: {"study": "s"},
    ReportConfig: {"study": "s"},
    SimulateConfig: {"study": "s"},
    StudioConfig: {},
    ExportConfig: {"output": "o.safetensors", "lora_file": "l"},
    SplitConfig: {"lora_file": "l"},
}


@pytest.mark.parametrize("cls", WORKING, ids=lambda cls: cls.__name__)
def test_every_option_takes_a_value_or_refuses_it_in_one_line_that_names_it(cls):
    refusals = 0
    for field in dataclasses.fields(cls):
        for value in NASTY:
            try:
                made = cls(**{**WORKING[cls], field.name: value})
            except UserError as error:
                assert len(str(error).splitlines()) == 1
                assert field.name.replace("_", "-") in str(error), (field.name, value)
                refusals += 1
            else:
                assert is_finite(getattr(made, field.name)), (field.name, value)
    assert refusals > 10 * len(dataclasses.fields(cls))


def is_finite(value) -> bool:
    return not isinstance(value, float) or abs(value) < 1e309


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (ContentConfig, n)
        for n in ("base_model", "output_dir", "content_dir", "partner_dirs", "content_trigger")
    ]
    + [(SecondConfig, n) for n in ("content_file", "style_dir")]
    + [(GenerateConfig, n) for n in ("base_model", "content_file", "prompts", "negative_prompt")]
    + [(EvaluateConfig, "pictures"), (StudyConfig, "study"), (InspectConfig, "file"), (BenchConfig, "output")]
    + [(ExportConfig, "output"), (DoctorConfig, "output_dir"), (SplitConfig, "lora_file")],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("text", ["a\0b", "\udcff", "x" * 9999], ids=["nul", "surrogate", "long"])
def test_text_that_no_file_can_hold_is_refused(cls, name, text):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        cls(**{**WORKING[cls], name: text})


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        (ContentConfig, "resolution", 10**6),
        (ContentConfig, "seed", 2**63),
        (ContentConfig, "basis_seed", 10**30),
        (ContentConfig, "output_dir", ""),
        (ContentConfig, "base_model", "x" * 256),
        (GenerateConfig, "size", 10**6),
        (GenerateConfig, "steps", 1001),
        (GenerateConfig, "seeds", (0, -1)),
        (GenerateConfig, "content_strength", 1e9),
        (GenerateConfig, "output_dir", "a/" + "x" * 256),
        (EvaluateConfig, "seeds", (2**63,)),
        (EvaluateConfig, "guidance", 1e9),
    ],
    ids=lambda value: str(value)[:20],
)
def test_enormous_and_empty_values_are_refused(cls, name, value):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        cls(**{**WORKING[cls], name: value})


def test_memory_that_is_not_there_is_told_in_one_line(settings, tmp_path, monkeypatch):
    def greedy(*_):
        torch.empty(2**50)

    monkeypatch.setattr("b4m.training.loop.start", greedy)
    refused(lambda: train(settings("content", tmp_path)), "memory", "--rows-per-pass 1")
    monkeypatch.setattr("b4m.training.loop.start", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):  # any other error of torch stays what it is
        train(settings("content", tmp_path))


# paths


def test_paths_with_spaces_and_other_alphabets_and_links_work(settings, folders, tmp_path):
    home = tmp_path / "mein Bär 猫 'n\" $x"
    shutil.copytree(folders["content"], home / "Bilder é")
    (tmp_path / "link").symlink_to(home / "Bilder é")
    (home / "out").mkdir()
    (tmp_path / "out link").symlink_to(home / "out")
    result = train(
        settings("content", tmp_path / "out link" / "ö", steps=1, content_dir=str(tmp_path / "link"))
    )
    plain = train(settings("content", tmp_path / "plain", steps=1))
    assert (
        (home / "out/ö/content.safetensors").read_bytes()
        == plain.path.read_bytes()
        == result.path.read_bytes()
    )


def test_a_folder_where_a_file_is_meant_and_a_file_where_a_folder_is(settings, trained, tmp_path, capsys):
    for name in ("content_file", "style_file"):
        files = {k: trained[k] for k in ("content_file", "style_file")} | {name: str(tmp_path)}
        refused(
            lambda files=files: train(settings("second", tmp_path / "out", **files)), tmp_path, "is a folder"
        )
    assert main(["info", str(tmp_path)]) == 2 and main(["train-content", "--config", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    refused(lambda: train(settings("content", tmp_path / "file" / "out")), "--output-dir")
    assert (tmp_path / "file").read_text() == "mine" and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def hold():
        with exclusive(tmp_path / "new"):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", full)
        refused(hold, tmp_path / "new", "No space left on device")
    (tmp_path / "new/run.lock").mkdir(parents=True)  # nor can the lock
    refused(hold, tmp_path / "new", "Is a directory")


# pictures


def test_enormous_picture_files_and_captions_are_refused_unread(tmp_path, monkeypatch):
    picture(1).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("ab") as file:
        file.truncate(decode.MAX_BYTES + 1)  # takes no place on the disk
    refused(lambda: load_folder(tmp_path, 16), tmp_path / "a.png", "536,870,913 bytes")
    picture(1).save(tmp_path / "a.png")
    for name, limit in (("a.txt", captions.MAX_CAPTION), ("metadata.jsonl", captions.MAX_METADATA)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(limit + 1)
        refused(lambda: load_folder(tmp_path, 16), tmp_path / name, f"{limit + 1:,} bytes")
        (tmp_path / name).unlink()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_a_side_that_would_take_gigabytes_to_scale_is_refused(tmp_path, fit):
    from PIL import Image

    Image.new("L", (decode.MAX_SIDE + 1, 1)).save(tmp_path / "a.png")
    refused(lambda: load_folder(tmp_path, 16, fit), tmp_path / "a.png", "65536 x 1")


def test_names_that_no_file_can_have_are_refused():
    for name in ("a\0b.png", "a" * 5000 + ".png"):
        refused(lambda name=name: load_folder(name, 16), "cannot be opened", limit=6000)


# LoRA and concept files


def tensors_file(path: Path, header: dict | bytes, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


GOOD = {UP: entry(0, 8, [2, 1]), DOWN: entry(8, 16, [1, 2])}


@pytest.mark.parametrize("read", [load_lora, load_concept, describe])
@pytest.mark.parametrize(
    ("header", "data", "word"),
    [
        ({UP: entry(0, 8, [2, 1]), DOWN: entry(0, 8, [1, 2])}, bytes(8), "not a whole"),
        ({UP: entry(0, 8, [2, 1]), DOWN: entry(12, 20, [1, 2])}, bytes(20), "not a whole"),
        ({**GOOD, DOWN: entry(8, 16, [2**40, 2])}, bytes(16), "not a whole"),
        ({**GOOD, DOWN: entry(8, 2**62, [2**60])}, bytes(16), "not a whole"),
        ({**GOOD, "x": entry(16, 24, [], "C64")}, bytes(24), "complex"),
        ({**GOOD, "__metadata__": ["a", 1]}, bytes(16), "not a whole"),
        (json.dumps(GOOD)[:-1].encode() + b"," + json.dumps(GOOD)[1:].encode(), bytes(16), "two entries named unet"),
        (b'{"__metadata__":{"a":"1","a":"2"},' + json.dumps(GOOD)[1:].encode(), bytes(16), "two entries named a"),
        (b'{"a":' * 9999, b"", "not a whole"),
        (b"\xff\xfe", b"", "not a whole"),
    ],
    ids=["overlap", "hole", "shape", "offset", "complex", "metadata", "twice", "metadata twice", "deep", "bytes"],
)  # fmt: skip
def test_headers_that_lie_are_refused(tmp_path, read, header, data, word):
    path = tensors_file(tmp_path / "x.safetensors", header, data)
    refused(lambda: read(path), path, word)


def test_what_a_file_declares_is_not_believed(tmp_path):
    path = tmp_path / "x.safetensors"
    for declared in (2**63, 2**32, 2**26):
        path.write_bytes(struct.pack("<Q", declared) + b"{}")
        refused(lambda: load_lora(path), path)
    with path.open("ab") as file:
        file.truncate(storage.MAX_BYTES + 1)  # takes no place on the disk
    refused(lambda: load_lora(path), path, "it has 17,179,869,185 bytes")
    path.write_bytes(struct.pack("<Q", storage.MAX_HEADER + 1))
    with path.open("ab") as file:
        file.truncate(storage.MAX_HEADER + 99)
    refused(lambda: load_lora(path), path, "its header has 33,554,433 bytes")
    refused(lambda: load_lora("a" * 5000), "does not exist", limit=6000)


def test_metadata_is_text_and_never_a_path_or_markup(settings, trained, tmp_path, capsys):
    concept = load_concept(trained["content_file"])
    evil = {
        "prompt": "../../evil <script>alert(1)</script>",
        "trigger": "/etc/passwd\x1b[2J\n",
        "base_model": "../evil",
        "resolution": "$(touch evil)",
    }
    path = tmp_path / "in" / "content.safetensors"
    save_concept(path, dataclasses.replace(concept, metadata={**concept.metadata, **evil}))
    files = {"content_file": str(path), "style_file": trained["style_file"]}
    train(settings("second", tmp_path / "a" / "b" / "out", steps=1, **files))
    assert sorted(os.listdir(tmp_path)) == ["a", "in"] and os.listdir(tmp_path / "a") == ["b"]
    assert os.listdir(tmp_path / "a/b") == ["out"]
    assert main(["info", str(tmp_path / "a/b/out/pytorch_lora_weights.safetensors")]) == 0
    assert "\x1b" not in capsys.readouterr().out


# base models


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self):
        return (Path.touch, (self.sign,))


def copied(tiny_base, folder: Path) -> Path:
    shutil.copytree(tiny_base, folder)
    return folder


@pytest.mark.parametrize("content", ["a bomb", "its own weights"])
def test_a_pickle_in_a_base_model_is_never_opened(tiny_base, tmp_path, content):
    base, sign = copied(tiny_base, tmp_path / "base"), tmp_path / "sign"
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    pickled = Bomb(sign) if content == "a bomb" else load_file(weights)
    torch.save(pickled, weights.with_suffix(".bin"))
    weights.unlink()
    refused(lambda: open_backbone(str(base)), base)
    assert not sign.exists()


def test_code_in_a_base_model_is_never_run(tiny_base, tmp_path):
    base, sign = copied(tiny_base, tmp_path / "base"), tmp_path / "sign"
    evil = f"from pathlib import Path\nPath({str(sign)!r}).touch()\nclass Evil: pass\n"
    for place in ("pipeline.py", "evil.py", "unet/evil.py", "unet/unet.py"):
        (base / place).write_text(evil)
    index = json.loads((base / "model_index.json").read_text())
    for change in ({"_class_name": ["evil", "Evil"]}, {"unet": ["evil", "Evil"]}):
        (base / "model_index.json").write_text(json.dumps({**index, **change}))
        refused(lambda: open_backbone(str(base)), base)
    (base / "model_index.json").write_text(json.dumps(index))
    config = json.loads((base / "unet/config.json").read_text())
    (base / "unet/config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "evil.Evil"}}))
    open_backbone(str(base))
    assert not sign.exists()


@pytest.mark.parametrize("part", ["vae", "text_encoder_2", "scheduler"])
def test_a_base_model_without_one_of_its_parts_is_refused_by_its_name(tiny_base, tmp_path, part):
    base = copied(tiny_base, tmp_path / "base")
    shutil.rmtree(base / part)
    refused(lambda: open_backbone(str(base)), base)


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_missing_tokenizer_is_not_made_up(settings, tiny_base, tmp_path, part, capsys):
    base = copied(tiny_base, tmp_path / "base")
    shutil.rmtree(base / part)
    out = tmp_path / "out"
    refused(lambda: train(settings("content", out, base_model=str(base))), base, f"its {part} is missing")
    assert not out.exists()
    assert main(["doctor", "--base-model", str(base), "--output-dir", str(tmp_path)]) == 2
    assert f"its {part} is missing" in capsys.readouterr().out


@pytest.mark.slow
def test_the_scripts_pass_the_exit_status_on(tiny_base, folders, tmp_path):
    """What the dry run cannot see: the base model is looked at by the run itself."""
    base = copied(tiny_base, tmp_path / "base")
    shutil.rmtree(base / "vae")
    given = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BASE_MODEL": str(base),
        "PRESET": "embedded",
        "CONTENT_DIR": folders["content"],
        "PARTNER_DIRS": " ".join(folders["styles"]),
        "OUTPUT_DIR": str(tmp_path / "out"),
    }
    command = ["bash", str(ROOT / "code/train_content.sh"), "--resolution", "16"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **given})
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith(f"b4m: error: base model {base}")
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads():
    names = r"import pickle|torch\.load|weights_only=False|trust_remote_code=True|custom_pipeline|yaml\.load\(|np\.load"
    names += r"|(?<![.\w])(?:eval|exec|compile)\("
    for path in sorted((ROOT / "src/b4m").rglob("*.py")):
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text(encoding="utf-8"))
        if (
            path.name == "csd.py"
        ):  # published in a pickle: torch's loader for weights alone, and a list of what it may hold
            code, count = re.subn(r"torch\.load\([^()]*weights_only=True[^()]*\(file\)\)", "", code)
            assert count == 1
        assert not (found := re.findall(names, code)), (path.name, found)


# the page


def test_every_test_that_the_page_names_exists():
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    found = {
        f"{path.relative_to(ROOT / 'tests').as_posix()}::{name}"
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = re.findall(r"`([\w/]*test_\w+\.py::test_\w+)`", page)
    assert len(named) > 50
    assert not set(named) - found
    assert all((ROOT / path).exists() for path in re.findall(r"\btests/[\w/]+\.py", page))
    for row in re.findall(r"^\| (?!---|fault|case).*$", page, re.MULTILINE):
        assert "::test_" in row or "figure" in row.lower() or "`bash" in row, row
