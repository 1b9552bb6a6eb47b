"""A study on the tiny base: everything once, killed and continued, shared by processes, scored."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

import b4m.studies.doing as doing
import b4m.studies.engines.drive as drive
from b4m.apps.vote.make import make
from b4m.apps.vote.questions import read_study as read_vote
from b4m.apps.vote.settings import MakeConfig
from b4m.core.errors import Busy, UserError
from b4m.core.lock import exclusive
from b4m.evaluation.extractors import Extractor
from b4m.evaluation.manifest import read_manifest
from b4m.studies.file import read_study
from b4m.studies.frontier import frontier
from b4m.studies.run import dry_run, study
from b4m.studies.settings import StudyConfig

ENCODERS = Path(__file__).parents[2] / "examples" / "world" / "encoders"


@pytest.fixture
def config(tmp_path, tiny_base, folders):
    values = {
        "title": "try",
        "rows": {"full": {}, "no second stage": {"method": "composed"}, "words": {"method": "words"}},
        "contents": [folders["content"]],
        "styles": [folders["style"]],
        "partner_styles": [*folders["styles"]],
        "partner_contents": [*folders["contents"]],
        "prompts": ["{content} in {style} style"],
        "settings": {"base_model": tiny_base, "resolution": 16},
        "train": {"rank": 4, "steps": 2},
        "second": {"steps": 1},
        "generate": {"steps": 2, "size": 16, "base_model": tiny_base},
        "evaluate": {f"{kind}_extractor": str(ENCODERS / kind) for kind in ("content", "style", "prompt")}
        | {f"{kind}_judge": None for kind in ("content", "style", "background", "colour")},
    }
    (tmp_path / "try.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return StudyConfig(str(tmp_path / "try.yaml"), output_dir=str(tmp_path / "out"))


def pictures_of(config) -> dict[str, bytes]:
    folder = Path(config.output_dir) / "pictures"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def scores_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["summary"]


def test_a_study_may_choose_its_own_baseline(config):
    values = yaml.safe_load(config.path.read_text())
    values["rows"] = {"one": {"method": "words"}, "two": {"method": "words", "generate": {"steps": 1}}}
    values["evaluate"]["baseline"] = "two"
    config.path.write_text(yaml.safe_dump(values, sort_keys=False))
    assert scores_of(study(config))["baseline"] == "two"


def test_a_study_with_dials_draws_its_frontier(config):
    values = yaml.safe_load(config.path.read_text())
    values["rows"] = {
        "ours": {"method": "composed", "dials": [[1, 0], [1, 1], [0, 1]]},
        "words": {"method": "words"},
    }
    config.path.write_text(yaml.safe_dump(values, sort_keys=False))
    folder = study(config)
    assert Image.open(folder / "frontier.png").size > (500, 300)
    drawn = frontier(scores_of(folder), read_study(config.path).curves)
    panel = drawn.axes[1]  # of the alignments; nothing classifies here
    lines = {line.get_label(): line for line in panel.get_lines()}
    assert [*lines] == ["ours", "words"]
    rows = scores_of(folder)["rows"]
    points = [
        tuple(entry["scores"][name]["mean"] for name in ("content", "style")) for entry in rows.values()
    ]
    assert [(x, y) for x, y in lines["ours"].get_xydata()] == points[:3]
    assert [(x, y) for x, y in lines["words"].get_xydata()] == points[3:]


def test_a_row_is_drawn_in_its_own_precision_whichever_row_came_before(config):
    path = config.path
    values = yaml.safe_load(path.read_text())
    values["rows"] = {"float32": {}, "bf16": {"generate": {"mixed_precision": "bf16"}}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    study(config)
    found = _by_row(config)
    assert found["float32"] != found["bf16"]


def _by_row(config) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for shot in read_manifest(Path(config.output_dir) / "results" / config.name):
        found.setdefault(shot.row, []).append(shot.file.read_bytes())
    return found


def test_a_study_from_nothing_to_its_table(config):
    folder = study(config)
    rows = scores_of(folder)["rows"]
    assert [*rows] == ["full", "no second stage", "words"]
    assert all(row["pictures"] == 2 and row["pairs"] == 1 for row in rows.values())
    assert "against_baseline" in rows["words"]
    shots = read_manifest(folder)
    assert {shot.prompt for shot in shots} == {"content in style style"}, "no extractor knows a trigger word"
    assert [(shot.row, shot.seed) for shot in shots] == [(row, seed) for row in rows for seed in (0, 1)]
    said = {shot.row: Image.open(shot.file).info["prompt"] for shot in shots}
    assert said == {
        "full": "snq content in w@z style style",
        "no second stage": "snq content in w@z style style",
        "words": "content in style style",
    }
    assert {path.name for path in folder.iterdir()} >= {
        "results.md",
        "pictures.csv",
        "plot.png",
        "manifest.jsonl",
    }
    spent = json.loads((folder / "seconds.json").read_text())
    seconds = spent["seconds"]
    assert {*seconds} == {"content", "style", "second", "picture"} and all(
        value > 0 for value in seconds.values()
    )
    text = (folder / "results.md").read_text()
    assert "b4m study" in text and "content alignment" in text
    whole = sum(seconds[stage] for stage in ("content", "style", "second"))
    assert spent["rows"]["full"]["seconds"]["a new content and a new style (Table 4)"] == pytest.approx(whole)
    assert f"| {seconds['style'] + seconds['second']:.1f} | {whole:.1f} | {seconds['second']:.1f} |" in text
    made = make(MakeConfig(str(folder), output_dir=f"{config.output_dir}/vote", set_size=2, checks=0))
    asked = read_vote(made)  # the finished study as one that people vote on
    assert (asked.ours, asked.methods) == ("full", tuple(rows)) and len(asked.questions) == 2 * 3 + 2 + 2


def test_killed_half_way_it_repeats_nothing_and_ends_the_same(config, tmp_path, monkeypatch):
    whole = study(StudyConfig(config.study, output_dir=str(tmp_path / "whole")))
    train, trained = doing.train, []

    def dies(job):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(job.output_dir)
        return train(job)

    monkeypatch.setattr(doing, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        study(config)
    monkeypatch.setattr(doing, "train", lambda job: trained.append(job.output_dir) or train(job))
    folder = study(config)
    assert len(trained) == len({*trained}) == 3
    assert scores_of(folder) == scores_of(whole)
    before = len(trained)
    study(config)
    assert len(trained) == before


def test_an_image_is_looked_at_once_whichever_study_shows_it(config, tmp_path, monkeypatch):
    first = scores_of(study(config))
    values = yaml.safe_load(Path(config.study).read_text())
    values["rows"].pop("no second stage")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    looked: list[int] = []
    monkeypatch.setattr(Extractor, "_pixels", lambda _, pictures: looked.append(len(pictures)))
    other = scores_of(study(StudyConfig(str(tmp_path / "other.yaml"), output_dir=config.output_dir)))
    assert not looked and other["rows"]["full"] == first["rows"]["full"]


def test_half_drawn_pictures_are_drawn_again(config, monkeypatch):
    save, saved = doing.save_png, []

    def full_disk(path, *rest):
        if len(saved) == 1:
            raise UserError("disk full")
        saved.append(path)
        save(path, *rest)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk full"):
        patch.setattr(doing, "save_png", full_disk)
        study(config)
    (half,) = pictures_of(config)
    assert not (Path(config.output_dir) / "pictures" / half).with_name("seconds.json").exists()
    study(config)
    found = pictures_of(config)
    assert len(found) == 3 * 2 and half in found  # rows x seeds
    shutil.rmtree(Path(config.output_dir) / "pictures")
    study(config)
    assert pictures_of(config) == found


def test_what_another_process_has_in_hand_is_left_to_it(config, monkeypatch):
    train, asked = doing.train, []

    def busy_once(job):
        asked.append(job.stage)
        if len(asked) == 1:
            raise Busy("another run is at work")
        return train(job)

    monkeypatch.setattr(doing, "train", busy_once)
    monkeypatch.setattr(drive, "POLL", 0.01)
    study(config)
    assert asked == ["content", "style", "content", "second"]  # the style meanwhile, then the content


def test_results_are_one_processs(config):
    folder = study(config)
    before = (folder / "results.json").read_bytes()
    (folder / "results.json").unlink()
    with exclusive(folder):
        assert study(config) is None
    assert not (folder / "results.json").exists()
    study(config)
    assert (folder / "results.json").read_bytes() == before


def test_dry_run_counts_and_learns_what_things_cost(config):
    text = dry_run(config)
    assert "content       1,      1 to do, cost not known yet" in text
    assert "0.0, and 9 jobs whose cost is not known yet: 1 content, 1 style, 1 second, 6 picture" in text
    assert not Path(config.output_dir).exists()
    study(config)
    text = dry_run(config)
    assert "second        1,      0 to do" in text and text.endswith("hours left, one process: 0.0")


def test_dry_run_adds_up_what_it_knows_and_names_the_rest_in_a_short_line(config, tmp_path):
    values = yaml.safe_load(config.path.read_text())
    values["seconds"] = {"content": 7200, "style": 1800}
    config.path.write_text(yaml.safe_dump(values, sort_keys=False))
    last = dry_run(config).splitlines()[-1]
    assert last == "hours left, one process: 2.5, and 7 jobs whose cost is not known yet: 1 second, 6 picture"
    last = dry_run(StudyConfig("smoke", output_dir=str(tmp_path / "none"))).splitlines()[-1]
    assert "1 content, 1 style, 1 second, 26 other kinds" in last and len(last) < 120


def test_a_study_that_is_not_there_names_those_that_are():
    with pytest.raises(UserError, match="no such file, nor one of .*table1-ablations"):
        StudyConfig("table9")
