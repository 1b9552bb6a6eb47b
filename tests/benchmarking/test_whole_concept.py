"""Whole concepts beside each other: processes that are measured to their end, files that are read back."""

import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE
from PIL import Image

from b4m.backbones.registry import open_backbone
from b4m.benchmarking import by_hand, concept
from b4m.benchmarking.concept import Contender, contenders, filled, measured, samples, settings
from b4m.benchmarking.read_back import Reader, newest
from b4m.benchmarking.report import shown
from b4m.benchmarking.settings import BenchConfig
from b4m.core.errors import UserError
from b4m.sampling.attach import attach

BUSY = """
import time
end, held = time.process_time() + 0.3, bytearray(60_000_000)
while time.process_time() < end: pass
"""


def config(**given) -> BenchConfig:
    return BenchConfig(size="small", device="cpu", rivals="all", **given)


def test_a_process_is_measured_to_its_end(tmp_path):
    found = measured(Contender("busy", [sys.executable, "-c", BUSY], tmp_path / "busy"))
    assert found["status"] == 0 and found["seconds"] > 0.3 and found["cpu_seconds"] > 0.1
    assert 60 < found["peak_mb"] < 2000
    assert measured(Contender("bad", [sys.executable, "-c", "exit(3)"], tmp_path / "bad"))["status"] == 3
    with pytest.raises(UserError, match="--peer no-such-program: cannot be run"):
        measured(Contender("none", ["no-such-program"], tmp_path / "none"))


WRITES = """
import sys, time
from pathlib import Path
end = time.process_time() + 0.2
while time.process_time() < end: pass
Path(sys.argv[1], "lora.safetensors").write_bytes(b"x")
end, held = time.process_time() + 0.5, bytearray(200_000_000)
while time.process_time() < end: pass
"""


def test_what_is_done_with_the_file_afterwards_does_not_count(tmp_path):
    found = measured(
        Contender("peer", [sys.executable, "-c", WRITES, str(tmp_path / "out")], tmp_path / "out")
    )
    assert found["seconds"] <= found["process_seconds"] - 0.4
    assert 0.1 < found["cpu_seconds"] < 0.6 and found["peak_mb"] < 150


def test_every_contender_learns_from_as_many_samples_of_the_target(tmp_path):
    asked = config(
        concept_steps=7, peer="echo --dir {images} --to '{output}' --n {steps}x{batch} '{\"a\": 1}'"
    )
    ours = settings(asked, "examples/world/base", tmp_path)
    found = {one.name: one for one in contenders(asked, ours, tmp_path)}
    assert len({one.folder for one in found.values()}) == len(found) == 5
    assert samples(ours) == 7 * 4
    for one in found.values():
        words = list(one.argv)
        if one.name != "peer":
            assert words[words.index("--steps") + 1] == "7"
        if "b4m.benchmarking.by_hand" in words:
            assert words[words.index("--batch") + 1] == "4"
    words = found["peer"].argv
    assert words[:2] == ["echo", "--dir"]
    assert {path.suffix for path in Path(words[2]).iterdir()} == {".png"}, "captions are no images"
    assert words[4] == str(tmp_path / "peer") and words[6:] == ["7x4", '{"a": 1}']
    assert found["ours"].role == "content_file" and "--partner-dirs" in found["ours"].argv


def test_a_path_with_spaces_stays_one_word():
    assert filled("x {output} y", {"output": Path("/a b")}) == ["x", "/a b", "y"]


@pytest.mark.parametrize("cached", [False, True])
def test_the_loop_by_hand_leaves_a_lora_that_works(tiny_base, tmp_path, cached):
    images = tmp_path / "images"
    images.mkdir()
    for name in "ab":
        Image.fromarray(np.full((40, 30, 3), ord(name), np.uint8)).save(images / f"{name}.png")
    options = Namespace(
        base_model=tiny_base, images=str(images), prompt="a photo of snq bear", output=str(tmp_path / "out"), steps=3,
        batch=2, rank=4, resolution=SIZE, seed=0, lr=1e-2, mixed_precision="no", cached=cached,
    )  # fmt: skip
    by_hand.train(options)
    backbone = open_backbone(tiny_base)
    attach(backbone, lora_file=str(newest(tmp_path / "out")))
    assert backbone.attached


def test_files_are_read_back_and_rows_say_what_came_of_them(
    trained, tiny_base, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(concept, "Reader", lambda base, *given: Reader(tiny_base, "no", "cpu", SIZE))
    copy = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"

    def some(config, ours, folder):
        argv = [sys.executable, "-c", copy, trained["content_file"], str(folder / "a/content.safetensors")]
        yield Contender("ours", argv, folder / "a", "content_file")
        yield Contender("peer", [sys.executable, "-c", "exit(3)"], folder / "b")

    monkeypatch.setattr(concept, "contenders", some)
    rows = concept.concepts(config(), tmp_path)
    assert rows[0]["first_image_seconds"] > rows[0]["seconds"] and rows[1]["status"] == 3
    report = {
        "machine": {"device": "x", "threads": 1},
        "rows": [],
        "ratios": {},
        "matmul_tflop_per_second": {},
        "model": {"channels_last": False},
    }
    table = shown(json.loads(json.dumps({**report, "concepts": rows})))
    assert "peer" in table and "peer: ended with status 3" in table

    monkeypatch.setattr(
        concept, "contenders", lambda *given: [Contender("ours", [sys.executable, "-c", "exit(2)"], tmp_path)]
    )
    with pytest.raises(UserError, match="ours: ended with status 2"):
        concept.concepts(config(), tmp_path)
    empty = Contender("peer", [sys.executable, "-c", ""], tmp_path / "empty")
    monkeypatch.setattr(concept, "contenders", lambda *given: [empty])
    assert "left no .safetensors" in concept.concepts(config(), tmp_path)[0]["problem"]


def test_scores_of_the_embedded_base_know_the_car(tmp_path):
    found = Reader("examples/world/base", "no", "cpu", 64)
    assert found.extractors and "car instance" in found.extractors.judges["content"].labels


@pytest.mark.parametrize(
    ("peer", "said"),
    [
        ("no-such-program {output}", "no-such-program: no such program"),
        ("", "no such program"),
        ("echo '{output}", "No closing quotation"),
        ("echo {output} {pictures}", "{pictures} is nothing that is filled in"),
        ("echo {images}", "says {output} nowhere"),
    ],
)
def test_a_peer_that_cannot_work_is_refused_before_ours_are_measured(peer, said):
    with pytest.raises(UserError, match=re.escape(said)):
        config(peer=peer)


@pytest.mark.parametrize("given", [{"peer": "x {output}"}, {"concept_steps": 3}])
def test_what_is_for_whole_concepts_is_refused_without_them(given):
    with pytest.raises(UserError, match="goes with --rivals all"):
        BenchConfig(**given)
