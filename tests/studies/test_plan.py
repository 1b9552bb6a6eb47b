"""A study as data: what is trained once, what differs, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from b4m.config.presets import PRESETS
from b4m.core.errors import UserError
from b4m.studies.file import METHODS, read_study
from b4m.studies.plan import Plan

STUDIES = Path(__file__).parents[2] / "examples" / "configs" / "studies"


@pytest.fixture
def study_file(tmp_path, tiny_base, folders):
    """A study of one content and one style on the tiny base, as a function: study_file(rows={...})."""

    def make(**changes) -> Path:
        values = {
            "title": "try",
            "rows": {"full": None},
            "contents": [folders["content"]],
            "styles": [folders["style"]],
            "partner_styles": [*folders["styles"]],
            "partner_contents": [*folders["contents"]],
            "prompts": ["a {content} in {style} style"],
            "settings": {"base_model": tiny_base, "resolution": 16},
            "train": {"rank": 4, "steps": 2},
            "second": {"steps": 1},
            **changes,
        }
        path = tmp_path / "try.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}, sort_keys=False))
        return path

    return make


def plan(path, **options) -> Plan:
    return Plan(read_study(path, **options), Path("work"))


def test_what_rows_share_is_planned_once(study_file):
    rows = {"full": {}, "no second": {"method": "composed"}, "adamw": {"second": {"optimizer": "adamw"}}}
    found = plan(study_file(rows=rows))
    assert dict(found.costs()) == {"content": 1, "style": 1, "joint": 0, "second": 2, "picture": 6}
    assert [drawing.row for drawing in found.drawings] == [*rows]


def test_every_setting_of_a_row_makes_a_training_of_its_own(study_file):
    rows = {
        "full": {},
        "random": {"train": {"basis": "random"}},
        "one": {"content_pictures": 1},
        "partner": {"partners": 1},
    }
    found = plan(study_file(rows=rows, training_seeds=[0, 1]))
    stages = Counter(training.config.stage for training in found.trainings.values())
    # a style is trained anew for another basis and other partners, not for fewer pictures of the content
    assert stages == {"content": 2 * 4, "style": 2 * 3, "second": 2 * 4}
    assert len({training.folder for training in found.trainings.values()}) == len(found.trainings)
    configs = [training.config for training in found.trainings.values()]
    assert {config.basis for config in configs if config.stage == "content"} == {"exact", "random"}
    assert {len(config.partner_dirs) for config in configs if config.stage == "style"} == {1, 2}
    assert {len(config.content_dir) for config in configs if config.stage == "content"} == {1}
    assert any(config.content_dir[0].endswith("0.png") for config in configs if config.stage == "content")


def test_a_training_comes_after_what_it_needs(study_file):
    rows = {name: {"method": name} for name in METHODS}
    found = plan(study_file(rows=rows))
    done = set()
    for training in found.trainings.values():
        assert {path.parent for path in training.needs} <= done
        done.add(training.folder)
    for drawing in found.drawings:
        assert {Path(path).parent for path in drawing.files.values()} <= done


def test_every_method_puts_on_what_it_says(study_file):
    found = plan(study_file(rows={name: {"method": name} for name in METHODS}))
    files = {drawing.row: {*drawing.files} for drawing in found.drawings}
    assert files == {
        "words": set(),
        "content": {"content_file"},
        "style": {"style_file"},
        "composed": {"content_file", "style_file"},
        "fused": {"lora_file"},
        "joint": {"lora_file"},
        "joint-then-second": {"lora_file"},
    }
    prompts = {drawing.row: drawing.shots[0][1] for drawing in found.drawings}
    assert (
        prompts["words"] == "a content in style style"
        and prompts["fused"] == "a snq content in w@z style style"
    )
    joint, everything = (t.config for t in found.trainings.values() if t.config.stage == "joint")
    assert joint.content_class == "content" and everything.content_dir == tuple(found.study.contents)


def test_pictures_are_named_by_what_they_are_drawn_with_wherever_it_stands(study_file):
    """A preset that changes must not pass off old pictures as its own; saying what it says draws nothing anew."""

    def folders(**changes) -> set[Path]:
        return {drawing.folder for drawing in plan(study_file(**changes)).drawings}

    said = PRESETS["embedded"]["generate"]["guidance"]
    assert folders() == folders(generate={"guidance": said}) != folders(generate={"guidance": said + 1})
    assert folders() != folders(seeds=[5]) and folders() != folders(prompts=["another {content} {style}"])


def test_a_setting_that_a_stage_does_not_read_renames_nothing(study_file):
    def folders(**train) -> dict[str, Path]:
        found = plan(study_file(second={"steps": 1, **train})).trainings.values()
        return {training.config.stage: training.folder for training in found}

    assert folders(partner_lr=0.5)["second"] == folders()["second"] != folders(lr=0.5)["second"]


def test_settings_do_not_reach_the_other_stage(study_file):
    for training in plan(study_file()).trainings.values():
        assert training.config.steps == (1 if training.config.stage == "second" else 2)


def test_subjects_can_be_exchanged(study_file, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("prompts: [one, two]\ntitle: not this one\n")
    path = study_file(prompts=None)
    with pytest.raises(UserError, match="prompts"):
        read_study(path)
    study = read_study(path, str(other))
    assert study.prompts == ("one", "two") and study.title == "try"


def test_patterns_are_folders_in_order(study_file, folders, tmp_path):
    for name in ("b", "a"):
        (tmp_path / "things" / name).mkdir(parents=True)
    study = read_study(study_file(contents=[str(tmp_path / "things" / "*")]))
    assert [Path(path).name for path in study.contents] == ["a", "b"]


def test_labels_follow_pair_and_prompt(study_file, folders):
    labels = {
        "content": "{content} instance",
        "background": ["navy", "teal"],
        "colour": {"content": "red"},
    }
    leaks = {"style": ["photo"], "colour": {"content": ["blue", "green"]}}
    study = read_study(study_file(prompts=["one", "two"], labels=labels, leaks=leaks))
    assert study.labels_of(folders["content"], folders["style"], 1) == {
        "content": "content instance",
        "background": "teal",
        "colour": "red",
    }
    assert study.leaks_of(folders["content"]) == {"style": ("photo",), "colour": ("blue", "green")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": {}}, "rows: empty"),
        ({"rows": {"full": {"methods": "joint"}}}, "row 'full': unknown setting 'methods'"),
        ({"rows": {"full": {"method": "magic"}}}, "choose one of words"),
        ({"rows": {"full": "fused"}}, "row 'full': expected lines"),
        ({"row": {}}, "unknown setting 'row'"),
        ({"title": None}, "title is missing"),
        ({"prompts": ["a {thing}"]}, "only {content} and {style}"),
        ({"contents": ["/nowhere/*"]}, "nothing matches /nowhere"),
        ({"labels": {"background": ["navy", "teal"]}}, "2 for 1 prompts"),
        ({"leaks": {"colour": {"bear": ["red"]}}}, "nothing for content"),
        ({"subjects": 3}, "expected the name of a YAML file"),
        ({"seeds": ["x"]}, "whole number"),
    ],
)
def test_a_wrong_study_is_one_line(changes, words, study_file):
    with pytest.raises(UserError) as error:
        read_study(study_file(**changes))
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_studies_can_be_planned(path, monkeypatch):
    monkeypatch.chdir(STUDIES.parents[2])
    found = plan(path)
    assert found.drawings and all(count >= 0 for _, count in found.costs())


def test_the_papers_own_protocol_is_the_same_study_on_other_subjects(tmp_path, monkeypatch):
    for folder in [f"contents/{i}" for i in range(30)] + [f"styles/{i}" for i in range(20)]:
        (tmp_path / "data" / folder).mkdir(parents=True)
    for kind in ("styles", "contents"):
        for i in range(5):
            (tmp_path / "data" / "partners" / kind / str(i)).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = plan(STUDIES / "joint.yaml", subjects=str(STUDIES.parent / "subjects" / "sdxl.yaml"))
    config = next(iter(found.trainings.values())).config
    assert (config.rank, config.resolution, config.steps) == (64, 512, 1000)
    costs = dict(found.costs())
    assert costs["joint"] == 3 * (600 + 1) and costs["picture"] == 4 * 3 * 600 * 10
