"""Atomic writes and checked reads: a crash leaves the old file, and no torn file is ever read."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from b4m.core import atomic
from b4m.core.errors import UserError
from b4m.core.storage import check_floats, fingerprint, read_tensors, write_atomic, write_tensors

TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([[1.5]]), "é": torch.zeros(0, 4)}
METADATA = {f"key {i}": f"Wert ö {i}\n" for i in range(8)}


def one_line(caught, *words):
    message = str(caught.value)
    assert message.isprintable(), message
    for word in words:
        assert str(word) in message, message


def test_write_atomic_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "folder" / "a b.txt"
    for text in ("old", "new"):
        write_atomic(path, lambda partial, text=text: partial.write_text(text))
        assert path.read_text() == text and os.listdir(path.parent) == ["a b.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")

    def half(partial):
        assert (
            partial.parent == tmp_path and partial != path
        )  # same file system, so that the rename is atomic
        partial.write_text("ne")
        raise error

    with pytest.raises(error):
        write_atomic(path, half)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_disk_that_refuses_leaves_the_old_file_and_says_so(tmp_path, monkeypatch, broken):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(UserError) as caught:
        write_atomic(path, lambda partial: partial.write_text("new"))
    one_line(caught, path, "No space left on device")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_the_content_is_flushed_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    replace, sync = os.replace, atomic.sync
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("rename"), replace(*names)))
    monkeypatch.setattr(atomic, "sync", lambda path: (calls.append(path.is_dir()), sync(path)))
    write_atomic(tmp_path / "file", lambda partial: partial.write_text("new"))
    assert calls == [False, "rename", True]


def test_a_folder_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below", tmp_path):
        with pytest.raises(UserError) as caught:
            write_atomic(path, lambda partial: partial.write_text("new"))
        one_line(caught, path)


def test_tensors_and_metadata_come_back_and_any_reader_opens_them(tmp_path):
    write_tensors(tmp_path / "x.safetensors", TENSORS, METADATA)
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"format": "pt", **METADATA}
    for found in (tensors, load_file(tmp_path / "x.safetensors")):
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


def test_views_are_written_as_what_they_show(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    views = {"t": base.T, "part": base[1:, ::2], "same": base, "wide": torch.ones(1, 2).expand(3, 2)}
    write_tensors(tmp_path / "x.safetensors", views, {})
    tensors, _ = read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(tensors[name], views[name]) for name in views)


def test_same_content_same_bytes_in_another_process(tmp_path):
    write_tensors(tmp_path / "here.safetensors", TENSORS, METADATA)
    program = "import sys; sys.path.insert(0, sys.argv[1]); from test_storage import *; "
    program += "write_tensors(sys.argv[2], dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))"
    there = tmp_path / "there.safetensors"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(
        [sys.executable, "-c", program, os.path.dirname(__file__), there], check=True, env=environment
    )
    assert (tmp_path / "here.safetensors").read_bytes() == there.read_bytes()


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {})
    tensors, _ = read_tensors(path)
    with path.open("r+b") as file:  # in place, as a careless tool does
        file.write(b"\xff" * path.stat().st_size)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_truncated_missing_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, METADATA)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(UserError) as caught:
            read_tensors(path)
        one_line(caught, path)
    path.write_bytes(b"PK\x03\x04 a zip, or a pickle" * 9)
    for wrong in (path, tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError) as caught:
            read_tensors(wrong)
        one_line(caught, wrong)


@pytest.mark.parametrize("value", [1600, 0.5, None, True, {"r": 4}, ["a"]])
def test_metadata_that_is_no_text_becomes_text(tmp_path, value):
    """safetensors itself reads no such file, whose tensors are whole."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS, {})
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    entries = {**json.loads(data[8:start]), "__metadata__": {"steps": value, "title": "größer"}}
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    tensors, metadata = read_tensors(path)
    assert metadata == {"steps": json.dumps(value), "title": "größer"}
    assert tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[k], TENSORS[k]) for k in TENSORS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    one_line(caught, path, "not a whole safetensors file")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04" + bytes(99), "zip archive, as pickled"),
        (b"\x80\x02}q\x00X\x06\x00" + bytes(99), "is pickled"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "pointer of Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
    ],
)
def test_what_people_have_in_place_of_a_file_of_tensors_is_named(tmp_path, content, word):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    one_line(caught, path, word)


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {}, {"x": "y" * 600})
    length = int.from_bytes(path.read_bytes()[:8], "little")
    write_tensors(path, {}, {"x": "y" * (600 + 0x0280 - length)})
    assert path.read_bytes()[:3] == b"\x80\x02\x00" and read_tensors(path)[0] == {}


def test_the_fingerprint_sees_every_part():
    def changed(name, tensor):
        return fingerprint({**TENSORS, name: tensor}, METADATA)

    plain = fingerprint(TENSORS, METADATA)
    assert plain == fingerprint(dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    others = {
        changed("b", TENSORS["b"] + torch.eye(2, 3) * 1e-6),
        changed("b", TENSORS["b"].reshape(3, 2)),
        changed("b", TENSORS["b"].view(torch.int32)),
        changed("c", TENSORS["b"]),
        fingerprint(TENSORS, {**METADATA, "key 1": ""}),
        fingerprint(TENSORS, {**METADATA, "x": ""}),
    }
    assert len(others) == 6 and plain not in others


@pytest.mark.parametrize(
    ("tensor", "word"),
    [
        (torch.tensor([[1.0, float("nan")]]), "NaN"),
        (torch.tensor([[float("-inf")]]), "NaN or infinite"),
        (torch.zeros(2, 2, dtype=torch.int64), "int64"),
        (torch.zeros(2, 2, 1), "(2, 2, 1)"),
    ],
)
def test_only_finite_float_matrices_pass(tensor, word):
    check_floats("x", TENSORS)
    with pytest.raises(UserError) as caught:
        check_floats("some file", {"good": torch.zeros(1, 1), "bad": tensor})
    one_line(caught, "some file", "bad", word)
