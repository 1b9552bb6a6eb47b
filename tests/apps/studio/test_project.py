"""A project: readable without the studio, open once, and no text becomes a path."""

import json

import pytest
from conftest import refused

from b4m.apps.studio import library
from b4m.apps.studio.project import Base, opened, peek
from b4m.core.errors import Busy


def test_a_new_folder_becomes_a_project_that_says_what_it_is(tmp_path):
    with opened(tmp_path / "new", Base(mixed_precision="bf16")) as project:
        library.create(project, "content", "Ünser Bär / <b>")
    assert "concepts/ID/concept.json" in (tmp_path / "new/README.txt").read_text()
    assert json.loads((tmp_path / "new/project.json").read_text())["mixed_precision"] == "bf16"
    (said,) = (tmp_path / "new/concepts").glob("*/concept.json")
    assert json.loads(said.read_text())["name"] == "Ünser Bär / <b>"


def test_what_it_began_with_stays(tmp_path):
    with opened(tmp_path / "p", Base("sdxl", vae="a/b")):
        pass
    with opened(tmp_path / "p", Base()) as again:
        assert (again.base.preset, again.base.vae) == ("sdxl", "a/b")


def test_a_second_studio_is_refused_with_the_first_ones_process(tmp_path):
    with opened(tmp_path / "p", Base()):
        with pytest.raises(Busy, match="open in another studio .process"):
            with opened(tmp_path / "p", Base()):
                pass
    with opened(tmp_path / "p", Base()):  # and once the first is gone it is not
        pass


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    refused(lambda: peek(tmp_path, Base()), "with other things in it", "new or an empty one")
    refused(lambda: peek(tmp_path / "thesis.tex", Base()), "a file")


@pytest.mark.parametrize("text", ["[]", "{", '{"format": 2}', '{"format": 1, "preset": "x"}'])
def test_a_damaged_project_is_refused(tmp_path, text):
    (tmp_path / "project.json").write_text(text)
    refused(lambda: peek(tmp_path, Base()), "project.json")


@pytest.mark.parametrize("text", ["..", "../x", "/etc", "content-0000000g", "content-00000000/..", "", "c\0"])
def test_only_identifiers_name_a_place(project, text):
    for place in (project.concept, project.trashed, project.cell):
        refused(lambda place=place: place(text))


def test_drafts_are_kept_and_a_damaged_file_of_them_is_nothing(project):
    project.save_draft("teach", {"name": "bear"})
    project.save_draft("mix", {"seeds": "1"})
    assert project.drafts() == {"teach": {"name": "bear"}, "mix": {"seeds": "1"}}
    for text in ("{", "[1]", '{"teach": 5}'):
        (project.folder / "drafts.json").write_text(text)
        assert project.drafts() == {}
