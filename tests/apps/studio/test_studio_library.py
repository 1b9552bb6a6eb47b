"""Cards: names are text, deleting can be undone, and what goes together is what check_pair says."""

import dataclasses
import shutil

import pytest
from conftest import refused

from b4m.apps.studio import library
from b4m.core.errors import UserError
from b4m.files.concept import check_pair, load_concept, save_concept


def test_names_are_checked_made_unique_and_changed(project):
    one = library.create(project, "content", "  Bear\n ")
    two = library.create(project, "style", "Bear")
    assert (one.name, two.name) == ("Bear", "Bear 2")
    assert library.rename(project, two.ident, "Yarn").name == "Yarn"
    refused(lambda: library.rename(project, two.ident, "Bear"), "taken")
    refused(lambda: library.rename(project, two.ident, " "), "empty")
    refused(lambda: library.rename(project, two.ident, "x" * 61), "61 characters")
    assert {concept.name for concept in library.concepts(project)} == {"Bear", "Yarn"}


def test_what_is_deleted_comes_back_whole(project, taught):
    ident = taught["content"].ident
    library.delete(project, ident)
    refused(lambda: library.get(project, ident), "no longer")
    assert [concept.ident for concept in library.deleted(project)] == [ident]
    assert library.ready(project, library.restore(project, ident))
    refused(lambda: library.restore(project, ident), "not in the trash")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"kind": "x", "name": "a"}', '{"kind": "style", "name": 5}', '{"kind": "style"}']
)
def test_a_damaged_card_hides_no_other(project, text):
    one, two = (library.create(project, "content", name) for name in "ab")
    (project.concept(one.ident) / "concept.json").write_text(text)
    assert library.concepts(project) == [two]


def test_roles_and_files_that_are_not_there_are_refused(project, taught):
    ident = taught["content"].ident
    refused(lambda: library.role_files(project, {"style": ident}), "is a content")
    refused(lambda: library.role_files(project, {"content": "../../etc"}), "no concept")
    waiting = library.create(project, "style", "Waiting")
    refused(lambda: library.role_files(project, {"style": waiting.ident}), "not trained yet")
    files = library.role_files(project, {"content": ident, "style": None})
    assert files == {"content_file": f"concepts/{ident}/training/content.safetensors"}


CHANGES = {
    "nothing": {},
    "seed": {"seed": 5},
    "ratio": {"ratio": 0.5},
    "basis": {"kind": "random"},
    "scale": {"scale": 2.0},
    "layers": {"layers": "square"},
    "unet_hash": {"unet_hash": "0" * 64},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_goes_together_is_what_check_pair_says(project, taught, tmp_path, change):
    content = load_concept(library.file_of(project, taught["content"]))
    style = load_concept(library.file_of(project, taught["style"]))
    own = {key: value for key, value in CHANGES[change].items() if key in ("layers", "unet_hash")}
    spec = dataclasses.replace(style.spec, **{k: v for k, v in CHANGES[change].items() if k not in own})
    style = dataclasses.replace(style, spec=spec, **own)
    save_concept(library.file_of(project, taught["style"]), style)
    told = library.differences(*(library.facts(project, taught[kind]) for kind in ("content", "style")))
    try:
        check_pair(content, style)
        assert change == "nothing" and told == ""
    except UserError:
        assert library.SHARED[change] in told


def test_facts_follow_a_file_that_changes(project, taught):
    style = taught["style"]
    before = library.facts(project, style)
    shutil.copyfile(library.file_of(project, taught["lora"]), library.file_of(project, style))
    assert library.facts(project, style) != before
