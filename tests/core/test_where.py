"""The shipped examples are found from any folder, and what lies in the folder comes first."""

import os
from pathlib import Path

from b4m.backbones.registry import family_of
from b4m.config.presets import EMBEDDED
from b4m.core.where import locate, matches, same

ROOT = Path(__file__).parents[2]


def test_shipped_examples_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert os.path.samefile(locate(EMBEDDED), ROOT / EMBEDDED)
    found = matches("examples/configs/studies/*.yaml")
    assert found == sorted(found) and len(found) == len(
        list((ROOT / "examples/configs/studies").glob("*.yaml"))
    )
    assert all(name.startswith("examples/") and Path(locate(name)).is_file() for name in found)


def test_what_lies_here_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(EMBEDDED).mkdir(parents=True)
    Path("examples/configs/studies").mkdir(parents=True)
    Path("examples/configs/studies/mine.yaml").touch()
    assert locate(EMBEDDED) == EMBEDDED
    assert matches("examples/configs/studies/*.yaml") == ["examples/configs/studies/mine.yaml"]


def test_every_other_name_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("owner/name", "/nowhere", "examples/none", "examples/\0", "examples/" + "x" * 5000):
        assert locate(name) == name
    assert matches("other/*.yaml") == [] and matches("examples/none/*") == []


def test_one_place_has_many_names(tmp_path, monkeypatch):
    shipped = str(ROOT / EMBEDDED)
    monkeypatch.chdir(tmp_path)
    for name in (EMBEDDED, shipped, f"{shipped}/", f"{shipped}/../base", os.path.relpath(shipped)):
        assert same(name, EMBEDDED) and same(EMBEDDED, name), name
    for name in (f"./{EMBEDDED}", "owner/name", str(ROOT / "examples/world"), "base"):
        assert not same(name, EMBEDDED), name
    (tmp_path / "link").symlink_to(shipped)
    assert same("link", EMBEDDED)
    Path(EMBEDDED).mkdir(parents=True)
    assert same(f"./{EMBEDDED}", EMBEDDED) and not same(shipped, EMBEDDED)  # what lies here comes first


def test_the_embedded_base_opens_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family = family_of(EMBEDDED)
    assert family.read_prediction_type(EMBEDDED) == "v_prediction"
    assert len(family.empty_denoiser(EMBEDDED).attn_processors) > 10
