"""The subjects of studies on the drawn world: each file is of one set, and its judges know all that it asks."""

from itertools import product
from pathlib import Path

import pytest
import yaml
from world.make_references import CONTENT_PARTNERS, MODELS, STYLE_PARTNERS, concepts, partners
from world.members import LABELS, SETS
from world.vocabulary import words

from b4m.studies.file import Study, read_study

SUBJECTS = Path(__file__).parents[2] / "examples/configs/subjects"


def file_of(which: str) -> Path:
    return SUBJECTS / ("world.yaml" if which == "tuning" else f"world-{which}.yaml")


@pytest.fixture(params=SETS)
def which(request) -> str:
    return request.param


@pytest.fixture
def study(which, tmp_path, monkeypatch) -> Study:
    """A study on the subjects of one set; the references of all sets are there, as empty files."""
    for name in SETS:
        root = Path("examples/references", "" if name == "tuning" else name)
        for place in (*concepts(name), *(partners() if name == "tuning" else ())):
            file = tmp_path / root / f"{place}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (tmp_path / "study.yaml").write_text("title: Any\nrows: {B4M: {}}\n")
    monkeypatch.chdir(tmp_path)
    return read_study("study.yaml", str(file_of(which)))


def test_a_file_names_the_members_of_its_own_set_alone(which, study):
    contents, styles = SETS[which]
    assert {study.word(folder) for folder in study.contents} == set(contents)
    assert {study.word(folder) for folder in study.styles} == set(styles)
    assert len(study.partner_styles) == len(study.partner_contents) == 5


def test_the_judges_know_whatever_is_asked_and_whatever_may_leak(which, study):
    contents, _ = SETS[which]
    for content, style in product(study.contents, study.styles):
        for number in range(len(study.prompts)):
            said = study.labels_of(content, style, number)
            assert said.keys() == LABELS.keys()
            assert all(name in LABELS[aspect] for aspect, name in said.items()), said
            assert said["colour"] == contents[study.word(content)].main
        for aspect, names in study.leaks_of(content).items():
            assert set(names) <= set(LABELS[aspect])


def test_what_may_leak_is_what_references_and_partners_show(which, study):
    contents, _ = SETS[which]
    shown = [scene for scene, _ in (concepts(which) | partners()).values()]
    beside = {content.kind for content, _ in (*MODELS, *CONTENT_PARTNERS)}
    for folder in study.contents:
        leaks, own = study.leaks_of(folder), contents[study.word(folder)]
        assert set(leaks["background"]) == {scene.ground.kind for scene in shown}
        assert set(leaks["content"]) == beside
        assert set(leaks["style"]) == {"photo", *(family for family, _, _ in STYLE_PARTNERS)}
        colours = {own.main, own.second, *([own.marking.colour] if own.marking else [])}
        assert set(leaks["colour"]) == {content.main for content, _ in MODELS} - colours


def test_a_factor_alone_is_asked_for_with_the_other_ones_words(study):
    alone = read_study(SUBJECTS.parent / "studies/alone.yaml", str(SUBJECTS / "world.yaml"))
    rows = [{}, {"style_strength": 0}, {"content_strength": 0}]  # both, a content, a style
    assert [row.generate for row in alone.rows.values()] == 3 * rows  # after 100, 200 and 50 steps
    assert (alone.generate, alone.prompts) == ({**study.generate, "steps": 25}, study.prompts)


def test_prompts_are_in_words_that_the_base_knows(which):
    given = yaml.safe_load((file_of(which)).read_text())
    known = set(words())
    for prompt in given["prompts"]:
        assert set(prompt.format(content="bear", style="sketch").split()) <= known
