"""A study as data: what is trained once, what differs, and what is refused."""

from collections import Counter
from dataclasses import fields
from itertools import product
from pathlib import Path

import pytest
import yaml
from conftest import picture, refused

from b4m.config.presets import PRESETS, SDXL
from b4m.config.sampling import GenerateConfig
from b4m.config.stages import ContentConfig, SecondConfig
from b4m.config.training import JobConfig
from b4m.core.errors import UserError
from b4m.methods.registry import METHODS
from b4m.studies.file import read_study
from b4m.studies.plan import SECTIONS, Drawing, Plan, Training, _key

STUDIES = Path(__file__).parents[2] / "examples" / "configs" / "studies"
SUBJECTS = STUDIES.parent / "subjects"
TRAINED = [name for name in METHODS.names() if name != "lora"]  # which reads files of others, and has no row

MERGED = (
    "direct-sum",
    "ziplora",
    "k-lora",
    "b-lora",
    "unziplora",
    "orthogonal-adaptation",
    "cc+cs",
    "custom-diffusion",
    "custom-diffusion-merge",
    "style-aligned",
    "cc+es",
)
TOKENS = ("textual-inversion", "prospect")


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
    rows = {
        "full": {},
        "no second": {"method": "composed"},
        "precondition": {"second": {"optimizer": "riemannian-adamw"}},
    }
    found = plan(study_file(rows=rows))
    assert dict(found.costs()) == {"content": 1, "style": 1, "joint": 0, "second": 2, "picture": 6}
    assert [drawing.row for drawing in found.drawings] == [*rows]


def test_what_nothing_of_the_style_reaches_is_planned_once_for_all_styles(study_file, folders):
    styles = [folders["style"], folders["content"]]
    costs = dict(plan(study_file(rows={"edited": {"method": "cc+es"}}, styles=styles)).costs())
    assert (costs["cc+es"], costs["lora-content"], costs["picture"]) == (1, 1, 4)


def test_every_setting_of_a_row_makes_a_training_of_its_own(study_file):
    rows = {
        "full": {},
        "random": {"train": {"basis": "random", "inputs": "cosine"}},
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
    found = plan(study_file(rows={name: {"method": name} for name in TRAINED}))
    done = set()
    for training in found.trainings.values():
        assert {path.parent for path in training.needs} <= done
        done.add(training.folder)
    for drawing in found.drawings:
        assert {Path(path).parent for path in drawing.files.values()} <= done


def test_rows_that_put_more_files_on_are_told_apart(study_file):
    """Else the files of one row would stay on for the next."""
    rows = {
        "two": {"method": "lora"},
        "three": {"method": "lora", "generate": {"more_files": ["x.safetensors"]}},
    }
    two, three = plan(study_file(rows=rows)).drawings
    assert {*two.files} == {"content_file", "style_file"} and two.folder != three.folder
    assert three.files == {**two.files, "more_files 0": "x.safetensors"}


def test_every_method_puts_on_what_it_says(study_file):
    found = plan(study_file(rows={name: {"method": name} for name in TRAINED}))
    files = {drawing.row: {*drawing.files} for drawing in found.drawings}
    assert files == {
        "words": set(),
        "content": {"content_file"},
        "style": {"style_file"},
        "composed": {"content_file", "style_file"},
        "b4m": {"lora_file"},
        "joint": {"lora_file"},
        "joint-then-second": {"lora_file"},
        **dict.fromkeys(MERGED, {"lora_file"}),
        **dict.fromkeys(TOKENS, {"content_file", "style_file"}),
    }
    prompts = {drawing.row: drawing.asked[0][1] for drawing in found.drawings}
    assert prompts.pop("words") == "a content in style style"
    assert {*prompts.values()} == {"a snq content in w@z style style"}
    sums = [t for t in found.trainings.values() if t.config.stage == "direct-sum"]
    assert len(sums) == 4 and all(len(t.needs) == 2 for t in sums)
    joint, everything = (t.config for t in found.trainings.values() if t.config.stage == "joint")
    assert joint.content_class == "content" and everything.content_dir == tuple(found.study.contents)


def test_pictures_are_named_by_what_they_are_drawn_with_wherever_it_stands(study_file):
    """A preset that changes must not pass off old pictures as its own; saying what it says draws nothing anew."""

    def folders(**changes) -> set[Path]:
        return {drawing.folder for drawing in plan(study_file(**changes)).drawings}

    said = PRESETS["embedded"]["generate"]["guidance"]
    assert folders() == folders(generate={"guidance": said}) != folders(generate={"guidance": said + 1})
    assert folders() != folders(prompts=["another {content} {style}"])


def test_more_seeds_keep_the_images_that_are_there(study_file, tmp_path):
    def drawing(seeds: list[int]) -> Drawing:
        return Plan(read_study(study_file(seeds=seeds)), tmp_path / "work").drawings[0]

    few = drawing([0])
    few.folder.mkdir(parents=True)
    few.asked[0].file.touch()
    more = drawing([0, 1])
    assert not few.left and [asked.seed for asked in more.asked] == [0, 1]
    assert [asked.seed for asked in more.left] == [1]


def test_a_setting_that_a_stage_does_not_read_renames_nothing(study_file):
    def folders(**train) -> dict[str, Path]:
        found = plan(study_file(second={"steps": 1, **train})).trainings.values()
        return {training.config.stage: training.folder for training in found}

    assert folders(partner_lr=0.5)["second"] == folders()["second"] != folders(lr=0.5)["second"]


FREE = {
    "tracker": "tensorboard",
    "gradient_checkpointing": True,
    "rows_per_pass": 1,
    "compile": True,
    "shard": True,
    "skip_not_finite": 3,
    "preview_every": 5,
    "preview_prompts": ("another",),
    "preview_negative": "base",
    "checkpoint_every": 7,
}


@pytest.mark.parametrize("name", FREE)
def test_a_setting_that_leaves_results_as_they_are_renames_no_folder(name, study_file):
    before = plan(study_file())
    given = {"rank": 4, "steps": 2, name: FREE[name]}, {"steps": 1, name: FREE[name]}
    after = plan(study_file(train=given[0], second=given[1]))
    assert {getattr(training.config, name) for training in after.trainings.values()} == {FREE[name]}
    assert [*after.jobs] == [*before.jobs]


def test_no_such_setting_is_forgotten():
    of_generate = {
        "grid",
        "overwrite",
        "strict",
        "content_dir",
        "style_dir",
        "content_extractor",
        "style_extractor",
    }
    for cls, known in ((ContentConfig, {*FREE}), (GenerateConfig, of_generate)):
        assert {f.name for f in fields(cls) if not f.metadata["affects_result"]} == known


def test_a_grid_beside_the_pictures_renames_nothing(study_file):
    assert [*plan(study_file(generate={"grid": True})).jobs] == [*plan(study_file()).jobs]


def test_folders_of_work_that_is_done_keep_their_names():
    """As earlier releases gave them: one that names them otherwise would train and draw everything anew."""
    content = ContentConfig(content_dir=("a",), partner_dirs=("b",), rank=8, lr_schedule="cosine")
    files = {"content_file": "c", "style_file": "d"}
    second = SecondConfig(content_dir=("a",), style_dir=("b",), damping=0.5, **files)
    pictures = GenerateConfig(prompts=("a",), content_file="c", guidance=2.5)
    assert [_key(config) for config in (content, second, pictures)] == [
        "3fdf653f105b",
        "f11cf66e1a21",
        "b84801b59bd0",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"settings": {"reso": 16}}, "settings, train, second and merge: unknown setting 'reso'; known: "),
        (
            {"train": {"guidance": 2.0}},
            "settings, train, second and merge: unknown setting 'guidance'; known: ",
        ),
        ({"second": {"step": 1}}, "settings, train, second and merge: unknown setting 'step'; known: "),
        (
            {"rows": {"a": {"train": {"rnak": 4}}}},
            "row 'a': train: no such training of method b4m reads 'rnak'",
        ),
        (
            {"rows": {"a": {"train": {"optimizer": "adamw"}}}},
            "row 'a': train: no such training of method b4m",
        ),
        (
            {"rows": {"a": {"second": {"rank": 4}}}},
            "row 'a': second: no such training of method b4m reads 'rank'",
        ),
        ({"rows": {"a": {"method": "composed", "second": {"lr": 1}}}}, "composed reads 'lr'; read: nothing"),
        ({"rows": {"a": {"method": "joint", "train": {"partner_lr": 1}}}}, "method joint reads 'partner_lr'"),
        ({"rows": {"a": {"method": "words", "train": {"rank": 4}}}}, "words reads 'rank'; read: nothing"),
        ({"rows": {"a": {"generate": {"rank": 4}}}}, "unknown setting 'rank'"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(changes, words, study_file):
    """It would be left out in silence, and the row would be the same as another under a wrong name."""
    refused(lambda: plan(study_file(**changes)), words, limit=900)


@pytest.mark.parametrize("generate", [{"negative": "base"}, {"compose": "predictions"}])
def test_what_a_method_cannot_draw_is_refused_before_it_is_trained(generate, study_file):
    rows = {"a": {"method": "k-lora", "generate": generate}, "b": {"generate": generate}}
    refused(lambda: plan(study_file(rows=rows)), "row 'a'", "not for method k-lora")
    del rows["a"]
    assert plan(study_file(rows=rows)).drawings


def test_an_inverted_image_is_drawn_as_it_was_inverted_whatever_else_is_drawn(study_file):
    rows = {
        "edited": {"method": "cc+es", "merge": {"inversion_steps": 7, "edit_guidance": 3}},
        "words": {"method": "words"},
    }
    edited, words = plan(study_file(rows=rows, generate={"guidance": 9, "size": 32})).drawings
    assert (edited.config.steps, edited.config.guidance, edited.config.size) == (7, 3.0, 16)
    assert (words.config.guidance, words.config.size) == (9.0, 32)
    rows["edited"]["generate"] = {"guidance": 4}
    refused(
        lambda: plan(study_file(rows=rows)),
        "row 'edited': guidance 4.0",
        "with 3.0",
        "edit_guidance under merge",
    )
    rows["edited"]["generate"] = {"guidance": 3, "size": "16x16"}
    assert plan(study_file(rows=rows, generate={"guidance": 9})).drawings[0].folder == edited.folder


def test_dials_that_a_file_cannot_turn_apart_are_refused_before_it_is_trained(study_file):
    turned = {"generate": {"style_strength": 0.5}}
    refused(
        lambda: plan(study_file(rows={"a": {"method": "ziplora", **turned}})),
        "row 'a': content strength 1 and style strength 0.5",
        "turn both at once",
    )
    both = {"method": "ziplora", "generate": {"content_strength": 0.5, "style_strength": 0.5}}
    assert plan(study_file(rows={"a": both, "b": turned})).drawings


def test_a_row_with_dials_is_a_row_for_each_position_on_one_curve(study_file):
    rows = {
        "ours": {"dials": [[1, 0.5], [1.0, 1.0]], "generate": {"guidance": 2}},
        "words": {"method": "words"},
    }
    found = plan(study_file(rows=rows))
    names = ["ours, content 1, style 0.5", "ours, content 1, style 1"]
    assert [drawing.row for drawing in found.drawings] == [*names, "words"]
    turned = [
        (d.config.content_strength, d.config.style_strength, d.config.guidance) for d in found.drawings[:2]
    ]
    assert turned == [(1, 0.5, 2), (1, 1, 2)]
    assert found.study.curves == {"ours": names}
    assert len(found.trainings) == 3, "a dial trains nothing"


def test_rows_may_say_which_curve_they_are_on(study_file):
    """Guidance is a dial, too."""
    rows = {f"at {g}": {"curve": "ours", "generate": {"guidance": g}} for g in (1, 2)}
    assert read_study(study_file(rows=rows)).curves == {"ours": ["at 1", "at 2"]}


@pytest.mark.parametrize("dials", [[1], [[1, 2, 3]], [["a", 1]], [[True, 1]]])
def test_dials_that_are_no_positions_are_refused(dials, study_file):
    refused(
        lambda: plan(study_file(rows={"a": {"dials": dials}})),
        "row 'a'",
        "[content strength, style strength]",
    )


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"a": {"dials": [[1, 1]]}, "a, content 1, style 1": {}}, "is a row already"),
        ({"a": {}, "b": {"curve": "a"}}, "row 'a': a curve of other rows is called so"),
    ],
)
def test_two_of_one_name_are_refused(rows, said, study_file):
    """One would take the other's place in the table or in the picture."""
    refused(lambda: read_study(study_file(rows=rows)), said)


def test_a_row_says_its_strengths_in_one_place(study_file):
    rows = {"a": {"dials": [[1, 1]], "generate": {"style_strength": 0.5}}}
    refused(lambda: plan(study_file(rows=rows)), "row 'a'", "style_strength", "take one away")


def test_settings_of_the_study_may_be_for_one_of_its_jobs_only(study_file):
    found = plan(
        study_file(rows={"a": {"method": "joint"}}, train={"rank": 4, "partner_lr": 0.1, "steps": 2})
    )
    assert [training.config.stage for training in found.trainings.values()] == ["joint"]


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


def test_other_subjects_are_shown_whole_whatever_the_study_took_of_its_own(study_file, folders, tmp_path):
    other = tmp_path / "other.yaml"
    others = {"contents": [*folders["contents"]], "seeds": [3, 4, 5], "train": {"steps": 9}}
    other.write_text(yaml.safe_dump(others))
    study = read_study(study_file(seeds=[0]), str(other))
    assert study.contents == (*folders["contents"],) and study.seeds == (3, 4, 5)
    assert study.train == {"rank": 4, "steps": 2}, "how it is done is the study's"


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
        (
            {"rows": {"full": {"method": "magic"}}},
            "row 'full': method 'magic': not known; choose one of b4m, ",
        ),
        ({"rows": {"full": "fused"}}, "row 'full': expected lines"),
        ({"row": {}}, "unknown setting 'row'"),
        ({"evaluate": {"vlms": "owner/name"}}, "evaluate: unknown setting 'vlms'; known: "),
        (
            {"evaluate": {"csd_extractor": "owner/name"}},
            "evaluate: --csd-extractor owner/name: write csd:PLACE",
        ),
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


def folders_of(found: Plan) -> dict[Path, Training]:
    return {training.folder: training for training in found.trainings.values()}


def reached(by_folder: dict[Path, Training], drawing: Drawing) -> list[JobConfig]:
    """Settings of every training that stands behind a drawing."""
    behind, todo = {}, [Path(file) for file in drawing.files.values()]
    while todo:
        training = by_folder[todo.pop().parent]
        behind[training.folder] = training.config
        todo += training.needs
    return [*behind.values()]


def at_dials(name: str, row: dict) -> list[tuple[str, dict]]:
    """What a row stands for: itself, or a row for each position of its dials."""
    if "dials" not in row:
        return [(name, row)]
    return [
        (
            f"{name}, content {content}, style {style}",
            {
                **row,
                "generate": {**row.get("generate", {}), "content_strength": content, "style_strength": style},
            },
        )
        for content, style in row["dials"]
    ]


def check_planned(found: Plan, rows: dict) -> None:
    """Every row is drawn for every pair and training seed, from trainings that do what the row says, and no others."""
    study, used, by_folder = found.study, set(), folders_of(found)
    rows = dict(at for name, row in rows.items() for at in at_dials(name, row or {}))
    wanted = product(rows, study.contents, study.styles, study.training_seeds)
    asked = sorted((d.row, d.content, d.style, d.training_seed) for d in found.drawings)
    assert asked == sorted(wanted)
    for drawing in found.drawings:
        row, configs = rows[drawing.row], reached(by_folder, drawing)
        used |= {config.output_dir for config in configs}
        assert {config.seed for config in configs if hasattr(config, "seed")} <= {drawing.training_seed}
        assert len(drawing.asked) == len(study.prompts) * len(study.seeds)
        for section in SECTIONS:
            for name, value in row.get(section, {}).items():
                told = [getattr(c, name) for c in configs if c.section == section and hasattr(c, name)]
                assert told and {*told} == {tuple(value) if isinstance(value, list) else value}, (
                    drawing.row,
                    name,
                )
        for name, value in row.get("generate", {}).items():
            assert getattr(drawing.config, name) == value
        for edit in (config for config in configs if config.stage == "cc+es"):
            made = edit.inversion_steps, edit.edit_guidance, edit.resolution
            assert (drawing.config.steps, drawing.config.guidance, drawing.config.size) == made
    assert used == {str(training.folder) for training in found.trainings.values()}


SHIPPED = pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)


@SHIPPED
def test_the_shipped_studies_can_be_planned(path, monkeypatch):
    monkeypatch.chdir(STUDIES.parents[2])
    check_planned(plan(path), yaml.safe_load(path.read_text())["rows"])


@SHIPPED
def test_the_shipped_studies_can_be_planned_on_the_papers_subjects(path, tmp_path, monkeypatch):
    given = yaml.safe_load(path.read_text())
    for folder in ("contents", "styles", "partners/contents", "partners/styles"):
        for name in ("one", "two"):
            (tmp_path / "data" / folder / name).mkdir(parents=True)
            picture(0).save(tmp_path / "data" / folder / name / "0.png")
    monkeypatch.chdir(tmp_path)
    found = plan(path, subjects=str(SUBJECTS / "sdxl.yaml"))
    check_planned(found, given["rows"])
    by_folder = folders_of(found)
    assert all(
        config.base_model == SDXL for drawing in found.drawings for config in reached(by_folder, drawing)
    )


def test_the_papers_own_protocol_is_the_same_study_on_other_subjects(tmp_path, monkeypatch):
    for folder in [f"contents/{i}" for i in range(30)] + [f"styles/{i}" for i in range(20)]:
        (tmp_path / "data" / folder).mkdir(parents=True)
    for kind in ("styles", "contents"):
        for i in range(5):
            (tmp_path / "data" / "partners" / kind / str(i)).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = plan(STUDIES / "table2.yaml", subjects=str(SUBJECTS / "sdxl.yaml"))
    config = next(iter(found.trainings.values())).config
    assert (config.rank, config.resolution, config.steps) == (64, 512, 1000)
    costs = dict(found.costs())
    assert costs["joint"] == 3 * (600 + 1) and costs["picture"] == 3 * 4 * 600 * 10  # three trainings of each
