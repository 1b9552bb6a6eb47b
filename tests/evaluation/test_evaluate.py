"""Evaluation: the manifest, scores against hand-made features, sums over pairs, files written, and resuming."""

import csv
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, picture
from PIL import Image
from test_extractors import make_clip, make_dino, make_judge

from b4m.core.errors import UserError
from b4m.core.storage import read_tensors, write_tensors
from b4m.data.images import open_pictures
from b4m.evaluation import drawing
from b4m.evaluation import score as scoring
from b4m.evaluation.drawing import draw_missing, planned
from b4m.evaluation.evaluate import evaluate
from b4m.evaluation.manifest import Shot, in_plain_words, read_manifest, write_manifest
from b4m.evaluation.metrics import crossed_interval
from b4m.evaluation.panel import Extractors, load_extractors, provenance
from b4m.evaluation.report import CELL, MAX_PAIRS, plot, sheet, summarise, tables, write_results
from b4m.evaluation.score import score
from b4m.evaluation.settings import EvaluateConfig

CONTENTS, STYLES, GROUNDS = ("bear", "car"), ("chalk", "neon"), ("white", "navy")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {
        "dino": make_dino(root / "dino"),
        "clip": make_clip(root / "clip"),
        "content": make_judge(root / "content", CONTENTS, 3),
        "style": make_judge(root / "style", STYLES, 4),
        "background": make_judge(root / "background", GROUNDS, 5),
    }


@pytest.fixture(scope="module")
def extractors(models) -> Extractors:
    judges = {aspect: models[aspect] for aspect in ("content", "style", "background")}
    return load_extractors(models["dino"], models["clip"], models["clip"], judges)


@pytest.fixture(scope="module")
def shots(tmp_path_factory) -> list[Shot]:
    """Two rows, two pairs, two seeds, two training seeds of the second row; references of two and one pictures."""
    root = tmp_path_factory.mktemp("shots")
    for number, name in enumerate((*CONTENTS, *STYLES)):
        (root / name).mkdir()
        for index in range(2 if name in CONTENTS else 1):
            picture(100 + 10 * number + index, (20, 24)).save(root / name / f"{index}.png")
    found = []
    for content, style in (("bear", "chalk"), ("car", "neon")):
        for row, training_seed in (("base", None), ("ours", 0), ("ours", 1)):
            for seed in (0, 1):
                file = root / f"{content}-{row}-{training_seed}-{seed}.png"
                picture(len(found)).save(file)
                found.append(
                    Shot(
                        file,
                        f"a snq {content} in w@z {style} style",
                        seed,
                        content,
                        style,
                        root / content,
                        root / style,
                        row,
                        training_seed,
                        {"content": content, "style": style, "background": "white"},
                        {"content": (CONTENTS[content == "bear"],), "background": GROUNDS},
                    )
                )
    return found


@pytest.fixture(scope="module")
def records(shots, extractors) -> list[dict]:
    return score(shots, extractors, progress=False)


# --- manifest ---


def entry(**changes) -> dict:
    values = {
        "file": "a.png",
        "prompt": "a bear",
        "seed": 0,
        "content": "bear",
        "style": "chalk",
        "content_dir": "bear",
        "style_dir": "bear",
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def listed(folder: Path, *entries) -> Path:
    (folder / "bear").mkdir(exist_ok=True)
    picture(0).save(folder / "a.png")
    lines = [line if isinstance(line, str) else json.dumps(line) for line in entries]
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_manifest_comes_back_as_it_was_written(shots, tmp_path):
    for folder in (shots[0].file.parent, tmp_path):  # pictures inside the folder, and elsewhere
        write_manifest(folder, shots)
        assert read_manifest(folder) == shots
    first = json.loads((shots[0].file.parent / "manifest.jsonl").read_text().splitlines()[0])
    assert first["file"] == shots[0].file.name and first["content_dir"] == "bear"
    assert "training_seed" not in first


def test_what_a_manifest_leaves_out_has_defaults(tmp_path, monkeypatch):
    listed(tmp_path, entry(), "", entry(seed=-1))
    monkeypatch.chdir(tmp_path.parent)
    shot = read_manifest(tmp_path.name)[0]
    assert shot.file == tmp_path / "a.png" and shot.pair == ("bear", "chalk")
    assert (shot.row, shot.training_seed, shot.labels, shot.leaks) == ("pictures", None, {}, {})


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (entry(seed=None), "seed is missing"),
        (entry(seed="0"), "seed must be a whole number"),
        (entry(seed=True), "seed must be a whole number"),
        (entry(prompt=" "), "prompt must be text"),
        (entry(trainingseed=1), "unknown key 'trainingseed'"),
        (entry(training_seed=0.5), "training_seed must be a whole number"),
        (entry(file="b.png"), "file .*b.png does not exist"),
        (entry(file="bear"), "file .*bear does not exist"),
        (entry(style_dir="chalk"), "style_dir .*chalk does not exist"),
        (entry(labels={"mood": "sad"}), "labels must be names by content, style, background, colour"),
        (entry(labels={"content": 3}), "labels must be names"),
        (entry(leaks={"content": "bear"}), "leaks must be lists of names"),
        (entry(), "are those of line 1"),
    ],
)
def test_a_wrong_line_of_a_manifest_is_named(tmp_path, line, message):
    listed(tmp_path, entry(), "", line)
    with pytest.raises(UserError, match=f"manifest.jsonl, line 3: .*{message}") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_manifest_and_an_empty_one(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.jsonl").write_text("\n")
    with pytest.raises(UserError, match="lists no image"):
        read_manifest(tmp_path)


# --- scores ---


def cosine(a, b) -> float:
    a, b = a.double().numpy(), b.double().numpy()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_scores_are_cosines_of_the_extractors_features(shots, records, extractors):
    for shot, record in zip(shots, records, strict=True):
        seen = open_pictures(shot.file)
        one = extractors.content.images(seen)[0]
        bears = extractors.content.images(open_pictures(shot.content_dir))
        assert len(bears) == 2
        assert record["content"] == pytest.approx(np.mean([cosine(one, bear) for bear in bears]), abs=1e-5)
        two, text = extractors.prompt.images(seen)[0], extractors.prompt.texts([shot.prompt])[0]
        chalk = extractors.style.images(open_pictures(shot.style_dir))[0]
        assert record["style"] == pytest.approx(cosine(two, chalk), abs=1e-5)
        assert record["prompt"] == pytest.approx(cosine(two, text), abs=1e-5)
        assert record["average"] == pytest.approx(
            (record["content"] + record["style"] + record["prompt"]) / 3
        )
        assert (record["row"], record["seed"], record["file"]) == (shot.row, shot.seed, str(shot.file))


def test_a_second_style_score_stands_beside_the_first(shots, records, extractors):
    """Of the style's references, and no part of the average."""
    both = score(shots, dataclasses.replace(extractors, csd=extractors.content), progress=False)
    for shot, record, alone in zip(shots, both, records, strict=True):
        one = extractors.content.images(open_pictures(shot.file))[0]
        chalk = extractors.content.images(open_pictures(shot.style_dir))[0]
        assert record["csd"] == pytest.approx(cosine(one, chalk), abs=1e-5)
        assert {name: value for name, value in record.items() if name != "csd"} == alone
    summary = summarise(both, "base")
    assert summary["rows"]["ours"]["against_baseline"]["csd"]["pairs"] == 2
    assert "| style alignment | style alignment (CSD) |" in tables(summary)
    assert provenance(dataclasses.replace(extractors, csd=extractors.style))["extractors"]["csd"]["sha256"]


def test_diversity_is_between_seeds_and_nothing_else(shots, records, extractors):
    features = {shot.file: extractors.prompt.images(open_pictures(shot.file))[0] for shot in shots}
    for start in range(0, len(shots), 2):  # neighbours differ in their seed
        expected = 1 - cosine(features[shots[start].file], features[shots[start + 1].file])
        for record in records[start : start + 2]:
            assert record["diversity"] == pytest.approx(expected, abs=1e-5)
    (alone,) = score(shots[:1], extractors, progress=False)
    assert "diversity" not in alone


class Judge:
    """Names what it is told to."""

    def __init__(self, labels, names):
        self.name, self.labels, self.names = "judge", tuple(labels), list(names)

    def classify(self, pictures):
        return [self.names.pop(0) for _ in pictures]


@pytest.mark.parametrize(
    "named, expected",
    [
        (
            ("bear", "chalk", "white"),
            dict(
                content_right=1,
                style_right=1,
                both_right=1,
                background_right=1,
                leak_content=0,
                leak_background=0,
            ),
        ),
        (
            ("car", "chalk", "navy"),
            dict(
                content_right=0,
                style_right=1,
                both_right=0,
                background_right=0,
                leak_content=1,
                leak_background=1,
            ),
        ),
        (
            ("bear", "neon", "white"),
            dict(
                content_right=1,
                style_right=0,
                both_right=0,
                background_right=1,
                leak_content=0,
                leak_background=0,
            ),
        ),
    ],
)
def test_judges_against_labels_and_leaks(shots, extractors, named, expected):
    labels = (CONTENTS, STYLES, GROUNDS)
    judges = {
        aspect: Judge(known, [name])
        for aspect, known, name in zip(("content", "style", "background"), labels, named, strict=True)
    }
    (record,) = score(shots[:1], dataclasses.replace(extractors, judges=judges), progress=False)
    assert {name: record[name] for name in expected} == expected
    assert "leak_style" not in record and record["style_verdict"] == named[1]


def test_the_weaker_of_both_is_of_a_row_a_pair_and_a_training_seed(shots, extractors):
    """A row that copies the content has a content right in every image, and nothing."""
    contents, styles = (1, 1, 0, 1, 1, 1), (0, 0, 1, 1, 0, 0)  # right or not
    judges = {
        "content": Judge(CONTENTS, [CONTENTS[not right] for right in contents]),
        "style": Judge(STYLES, [STYLES[not right] for right in styles]),
    }
    bears = shots[:6]  # rows base, ours with training seed 0, ours with 1; two seeds of the image each
    found = score(bears, dataclasses.replace(extractors, judges=judges), progress=False)
    assert [each["content_right"] for each in found] == list(contents)
    assert [each["style_right"] for each in found] == list(styles)
    assert [each["weaker_right"] for each in found] == [0, 0, 0.5, 0.5, 0, 0]
    entry = summarise(found, "base")["rows"]["ours"]
    assert (
        entry["scores"]["weaker_right"]["mean"] == entry["against_baseline"]["weaker_right"]["mean"] == 0.25
    )
    assert "weaker of content and style right" in tables(summarise(found))


def test_the_weaker_of_both_needs_both_verdicts(shots, extractors):
    styleless = dataclasses.replace(shots[0], labels={"content": "bear"})
    found = score([styleless, shots[1]], extractors, progress=False)
    assert "weaker_right" not in found[0] and "weaker_right" in found[1]


def test_without_labels_nothing_is_judged(shots, extractors):
    plain = dataclasses.replace(shots[0], labels={}, leaks={})
    (record,) = score([plain], extractors, progress=False)
    assert not [name for name in record if name.endswith("_right") or name.startswith("leak_")]


@pytest.mark.parametrize("change", [{"labels": {"content": "baer"}}, {"leaks": {"content": ("baer",)}}])
def test_a_label_that_no_judge_knows_is_refused(shots, extractors, change):
    with pytest.raises(UserError, match="'baer' is no class of the classifier .*it knows bear, car"):
        score([dataclasses.replace(shots[0], **change)], extractors, progress=False)


def test_more_pictures_than_fit_in_memory_score_the_same(shots, records, extractors, monkeypatch):
    monkeypatch.setattr(scoring, "AT_ONCE", 5)
    assert score(shots, extractors, progress=False) == records


def test_the_same_spec_is_loaded_once_and_wrong_kinds_are_refused_at_once(models):
    found = load_extractors(models["content"], models["clip"], models["clip"], {"content": models["content"]})
    assert found.style is found.prompt and found.content is found.judges["content"]
    with pytest.raises(UserError, match="reads images only"):
        load_extractors(models["dino"], models["clip"], models["dino"])
    with pytest.raises(UserError, match="names no classes"):
        load_extractors(models["dino"], models["clip"], models["clip"], {"content": models["dino"]})


# --- sums ---


def record(row, pair, seed=0, training_seed=None, **scores) -> dict:
    return {
        "row": row,
        "content_name": pair,
        "style_name": "chalk",
        "prompt_text": "a bear",
        "seed": seed,
        "training_seed": training_seed,
        **scores,
    }


def test_a_mean_is_over_pictures_then_training_seeds_then_pairs():
    some = [
        *(record("ours", "bear", seed, 0, content=0.2) for seed in range(6)),
        record("ours", "bear", 0, 1, content=0.6),
        record("ours", "car", 0, 0, content=0.8),
    ]
    entry = summarise(some)["rows"]["ours"]
    assert {name: entry[name] for name in ("pictures", "pairs", "seeds", "training_seeds")} == dict(
        pictures=8, pairs=2, seeds=6, training_seeds=2
    )
    found, expected = (
        entry["scores"]["content"],
        crossed_interval({("bear", "chalk"): 0.4, ("car", "chalk"): 0.8}),
    )
    assert (found["mean"], found["low"], found["high"]) == pytest.approx(expected)
    assert (found["pairs"], found["pictures"]) == (2, 8)


def test_intervals_know_which_pairs_share_a_content_and_a_style():
    """Four contents in four styles where only contents differ: an interval over sixteen pairs is half as wide."""
    some = [
        {**record(row, f"c{i}", content=float(i * gain)), "style_name": f"s{j}"}
        for row, gain in (("base", 1), ("ours", 3))
        for i in range(4)
        for j in range(4)
    ]
    entry = summarise(some, "base")["rows"]["ours"]
    for found, gain in ((entry["scores"]["content"], 3), (entry["against_baseline"]["content"], 2)):
        expected = crossed_interval({(f"c{i}", f"s{j}"): i * gain for i in range(4) for j in range(4)})
        assert (found["mean"], found["low"], found["high"]) == pytest.approx(expected)
        assert found["high"] - found["low"] > 1.5 * gain


def test_intervals_can_be_made_again_from_the_table_of_pairs(shots, records, tmp_path):
    summary = summarise(records, "base")
    write_results(tmp_path, records, summary, shots)
    with (tmp_path / "pairs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["pictures"] for line in lines] == ["2", "4", "2", "4"]
    tables = {"base": {}, "ours": {}}
    for line in lines:
        tables[line["row"]][line["content_name"], line["style_name"]] = float(line["average"])
    gain = {pair: value - tables["base"][pair] for pair, value in tables["ours"].items()}
    for found, values in (
        (summary["rows"]["ours"]["scores"]["average"], tables["ours"]),
        (summary["rows"]["ours"]["against_baseline"]["average"], gain),
    ):
        assert (found["mean"], found["low"], found["high"]) == pytest.approx(crossed_interval(values))


def test_a_single_pair_has_no_interval():
    found = summarise([record("ours", "bear", content=0.5)])["rows"]["ours"]["scores"]["content"]
    assert found == {"mean": 0.5, "low": None, "high": None, "pairs": 1, "pictures": 1}


def test_a_difference_is_between_counterparts_only():
    rng = np.random.default_rng(0)
    pairs = [f"pair {index}" for index in range(8)]
    base = {(pair, seed): rng.random() for pair in pairs for seed in (0, 1)}
    gain = {pair: rng.normal(0.1, 0.01) for pair in pairs}
    some = [record("base", pair, seed, content=value) for (pair, seed), value in base.items()]
    some += [record("base", "elsewhere", content=9.0)]
    some += [
        record("ours", pair, seed, training_seed, content=value + gain[pair] + 0.01 * training_seed)
        for (pair, seed), value in base.items()
        if seed == 0
        for training_seed in (-1, 1)
    ]
    some += [record("ours", pairs[0], seed=7, training_seed=1, content=-9.0)]  # no counterpart: left out
    entry = summarise(some, "base")["rows"]["ours"]["against_baseline"]["content"]
    expected = crossed_interval({(pair, "chalk"): gain[pair] for pair in pairs})
    assert (entry["mean"], entry["low"], entry["high"]) == pytest.approx(expected)
    assert (entry["pairs"], entry["pictures"]) == (8, 16)
    assert "against_baseline" not in summarise(some, "base")["rows"]["base"]


def test_training_seeds_are_matched():
    some = [
        record(row, "bear", 0, seed, content=base + seed)
        for row, base in (("a", 0.0), ("b", 0.5))
        for seed in (0, 1)
    ]
    some += [record("c", "bear", 0, 2, content=7.0), record("plain", "bear", content=0.25)]
    rows = summarise(some, "a")["rows"]
    assert rows["b"]["against_baseline"]["content"]["mean"] == pytest.approx(0.5)
    assert rows["c"]["against_baseline"] == {}  # training seed 2 was not drawn by the baseline
    assert rows["plain"]["against_baseline"]["content"]["mean"] == pytest.approx(0.25 - 0.5)


def test_a_baseline_must_be_a_row():
    with pytest.raises(UserError, match="baseline 'theirs' is no row .*ours"):
        summarise([record("ours", "bear", content=0.5)], "theirs")


# --- what is written ---


def test_everything_is_written_and_reads_back(shots, records, extractors, tmp_path):
    summary = summarise(records, "base")
    returned = write_results(tmp_path, records, summary, shots, provenance(extractors))
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(returned))
    made = returned["provenance"]["extractors"]
    assert made["content"]["name"] == extractors.content.name and len(made["content judge"]["sha256"]) == 64
    assert (tmp_path / "results.md").read_text() == tables(summary)
    with (tmp_path / "pictures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    for row, made in zip(rows, records, strict=True):
        assert float(row["content"]) == made["content"] and int(row["both_right"]) == made["both_right"]
        assert row["training_seed"] == ("" if made["training_seed"] is None else str(made["training_seed"]))
    with Image.open(tmp_path / "plot.png") as drawn:
        assert min(drawn.size) > 200
    with Image.open(tmp_path / "sheet.webp") as drawn:  # labels, two references, two rows; header, two pairs
        assert drawn.width == CELL + 4 * (CELL + 4) and drawn.height > 2 * (CELL + 4)
    assert not list(tmp_path.glob(".b4m-partial-*"))


def test_the_table_says_what_the_summary_holds():
    some = [
        record("o|rs", pair, content=value, both_right=right)
        for pair, value, right in (("bear", 0.5, 1), ("car", 0.7, 0))
    ]
    some += [record("base", pair, content=0.25, both_right=0) for pair in ("bear", "car")]
    text = tables(summarise(some, "base"))
    assert "|  | pictures | pairs | content alignment |\n| --- | --- | --- | --- |" in text
    assert "| o\\|rs | 2 | 2 | 0.600 [0.500, 0.700] |" in text
    assert "| o\\|rs | 2 | 2 | 50 % [0 %, 100 %] |" in text
    assert "| o\\|rs | 2 | 2 | +0.350 [+0.250, +0.450] |" in text
    alone = tables(summarise([record("ours", "bear", content=0.5)]))
    assert "| ours | 1 | 1 | 0.500 |" in alone and "Difference" not in alone


def test_the_sheet_shows_the_same_prompt_and_seed_and_is_capped(tmp_path):
    colours = {"a": (255, 0, 0), "b": (0, 0, 255), "reference": (0, 255, 0)}
    for name, colour in colours.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    reference = tmp_path / "reference.png"

    def shot(row, pair, seed):
        return Shot(
            tmp_path / f"{row}.png", "a bear", seed, f"bear {pair}", "chalk", reference, reference, row
        )

    drawn = np.asarray(sheet([shot("a", 0, 3), shot("b", 0, 4), shot("b", 1, 3), shot("a", 1, 3)]))
    step, top = CELL + 4, drawn.shape[0] - 2 * (CELL + 4)

    def colour(line, column):
        return tuple(
            int(level) for level in drawn[top + line * step + CELL // 2, CELL + column * step + CELL // 2]
        )

    assert [colour(0, column) for column in range(4)] == [
        (0, 255, 0),
        (0, 255, 0),
        (255, 0, 0),
        (255, 255, 255),
    ]
    assert [colour(1, column) for column in (2, 3)] == [(255, 0, 0), (0, 0, 255)]
    many = sheet([shot("a", pair, 0) for pair in range(3 * MAX_PAIRS)])
    assert many.height < (MAX_PAIRS + 1) * step


def test_the_sheet_shows_every_row_in_blocks_that_a_file_can_hold(tmp_path):
    """Of one pair: columns are references (blue), then the rows in their order, each in a shade of its own."""
    Image.new("RGB", (8, 8), (0, 0, 255)).save(tmp_path / "reference.png")
    reference, step = tmp_path / "reference.png", CELL + 4

    def shots_of(rows, pairs=1):
        for row in range(rows):
            Image.new("RGB", (8, 8), (2 * row, 0, 0)).save(tmp_path / f"{row}.png")
            for pair in range(pairs):
                name, file = f"content {pair}", tmp_path / f"{row}.png"
                yield Shot(file, "a bear", 0, name, "chalk", reference, reference, f"r{row}")

    def shades(image):
        """The levels of red of the images in every line, found by the black labels above the first."""
        pixels = np.asarray(image)
        columns = range(CELL + CELL // 2, image.width, step)
        lines = [y for y in range(CELL // 2, image.height) if tuple(pixels[y, columns[0]]) == (0, 0, 255)]
        starts = [y for y in lines if y - 1 not in lines]
        return [[int(pixels[y, x, 0]) for x in columns if pixels[y, x, 2] == 0] for y in starts]

    reds = [2 * row for row in range(17)]
    assert shades(sheet(list(shots_of(16)))) == [reds[:16]]
    assert shades(sheet(list(shots_of(17)))) == [reds[:9], reds[9:]]
    large = sheet(list(shots_of(90, pairs=MAX_PAIRS)))
    assert large.height < 16383 and len(shades(large)) == 6 * MAX_PAIRS // 2  # six blocks, every second pair


def test_the_plot_has_a_panel_for_every_score(records):
    figure = plot(summarise(records, "base"))
    titles = [panel.get_title() for panel in figure.axes if panel.get_visible()]
    assert titles[:3] == ["content alignment", "style alignment", "prompt alignment"]
    assert len(titles) == 12  # all but leaked style, which these pictures do not list
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["base", "ours"]
    assert len(figure.axes[0].get_lines()) == 3  # two dots and the baseline


def test_without_matplotlib_the_package_is_named(monkeypatch, records):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        plot(summarise(records))


# --- the job ---


@pytest.fixture
def config(tiny_base, trained, folders, models, tmp_path):
    """EvaluateConfig that draws with the trained pair, as a function of changes."""

    def make(**changes) -> EvaluateConfig:
        return EvaluateConfig(
            **{
                "output_dir": str(tmp_path / "out"),
                "base_model": tiny_base,
                "content_file": trained["content_file"],
                "style_file": trained["style_file"],
                "content_dir": folders["content"],
                "style_dir": folders["style"],
                "prompts": ("a photo of snq bear", "a photo of snq house"),
                "seeds": (0, 1),
                "size": SIZE,
                "steps": 2,
                "content_extractor": models["dino"],
                "style_extractor": models["clip"],
                "prompt_extractor": models["clip"],
                **changes,
            }
        )

    return make


@pytest.fixture
def drawn(monkeypatch) -> list[tuple[str, int]]:
    """The prompts and seeds that are sampled from now on."""
    asked: list[tuple[str, int]] = []
    original = drawing.sample_with

    def watched(backbone, config, prompts, seeds):
        asked.extend(zip(prompts, seeds, strict=True))
        return original(backbone, config, prompts, seeds)

    monkeypatch.setattr(drawing, "sample_with", watched)
    return asked


def test_a_pair_is_drawn_scored_and_written(config, drawn, tmp_path):
    results = evaluate(config())
    assert drawn == [(prompt, seed) for prompt in config().prompts for seed in (0, 1)]
    entry = results["summary"]["rows"]["pictures"]
    assert entry["pictures"] == 4 and entry["pairs"] == 1 and entry["scores"]["diversity"]["mean"] > 0
    assert results["provenance"]["settings"]["steps"] == "2"
    shots = read_manifest(tmp_path / "out" / "pictures")
    assert shots == planned(config()) and shots[0].pair == ("content", "style")
    assert shots[0].prompt == "a photo of bear", "scored without the trigger word that it was drawn with"
    # The same pictures by their manifest: the same numbers, and nothing drawn.
    again = evaluate(
        EvaluateConfig(
            pictures=str(tmp_path / "out" / "pictures"),
            output_dir=str(tmp_path / "again"),
            **{
                f"{name}_extractor": getattr(config(), f"{name}_extractor")
                for name in ("content", "style", "prompt")
            },
        )
    )
    assert again["summary"] == results["summary"] and len(drawn) == 4


def test_images_need_not_be_square_and_foreign_syntax_gets_a_line(config, tmp_path, capsys):
    results = evaluate(config(size="24x16", prompts=("a (bear:1.2)",), seeds="3..4"))
    assert results["summary"]["rows"]["pictures"]["pictures"] == 2
    image = Image.open(tmp_path / "out/pictures/000_seed3.png")
    assert image.size == (24, 16) and image.text["size"] == "24x16"
    assert "(bear:1.2): no word has a weight" in capsys.readouterr().err


def test_drawing_continues_where_it_was_stopped(config, drawn, monkeypatch):
    monkeypatch.setattr(drawing, "SAMPLES_AT_ONCE", 1)
    shots = planned(config())
    whole = drawing.sample_with
    calls = []

    def stopping(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(drawing, "sample_with", stopping)
    with pytest.raises(KeyboardInterrupt):
        draw_missing(config(), shots)
    monkeypatch.setattr(drawing, "sample_with", whole)
    assert [shot.file.exists() for shot in shots] == [True, True, False, False]
    drawn.clear()
    draw_missing(config(), shots)
    assert drawn == [(config().prompts[1], 0), (config().prompts[1], 1)]
    drawn.clear()
    shots[1].file.write_bytes(shots[1].file.read_bytes()[:-60])  # a copy that broke off
    draw_missing(config(), shots)
    assert drawn == [(config().prompts[0], 1)]
    monkeypatch.setattr(drawing, "open_for", None)  # nothing to draw: no model is loaded
    draw_missing(config(), shots)


@pytest.mark.parametrize("change", ["steps", "prompts", "files", "more files"])
def test_pictures_of_other_settings_are_drawn_again(config, drawn, trained, tmp_path, change):
    copy = tmp_path / "content.safetensors"
    copy.write_bytes(Path(trained["content_file"]).read_bytes())
    given = {"more_files": (str(copy),)} if change == "more files" else {"content_file": str(copy)}
    before = config(**given, seeds=(0,))
    draw_missing(before, planned(before))
    drawn.clear()
    after = {
        "steps": lambda: dataclasses.replace(before, steps=3),
        "prompts": lambda: dataclasses.replace(before, prompts=(before.prompts[0], "a bear")),
        "files": lambda: before,
        "more files": lambda: before,
    }[change]()
    if "files" in change:  # trained again, under the same name
        tensors, metadata = read_tensors(copy)
        write_tensors(copy, tensors, {**metadata, "note": "again"})
    draw_missing(after, planned(after))
    assert len(drawn) == (1 if change == "prompts" else 2)


@pytest.mark.parametrize(
    "prompt, plain",
    [
        ("a photo of snq bear in w@z chalk style", "a photo of bear in chalk style"),
        ("snq, in w@z style", ", in style"),
        ("a snqx bear w@zz", "a snqx bear w@zz"),  # other words
        ("a  bear", "a  bear"),
        ("a bear snq", "a bear"),
        ("snq", "snq"),  # nothing else to score
    ],
)
def test_prompts_are_scored_without_trigger_words(prompt, plain):
    assert in_plain_words(prompt, ("snq", "w@z")) == plain


@pytest.mark.parametrize(
    "metadata, plain",
    [
        ({}, "a photo of snq bear"),
        ({"modelspec.trigger_phrase": "snq, w@z"}, "a photo of bear"),
        ({"modelspec.trigger_phrase": "photo of snq bear"}, "a photo of snq bear"),  # plain words among them
        ({"b4m.content_trigger": "snq", "b4m.style_trigger": "photo"}, "a of bear"),
    ],
)
def test_trigger_words_are_those_that_the_files_name(config, trained, tmp_path, metadata, plain):
    tensors, _ = read_tensors(trained["lora_file"])
    write_tensors(tmp_path / "any.safetensors", tensors, metadata)
    found = planned(config(content_file=None, style_file=None, lora_file=str(tmp_path / "any.safetensors")))
    assert found[0].prompt == plain


def test_prompts_that_differ_in_trigger_words_only_are_refused(config):
    with pytest.raises(UserError, match="two are the same without snq, w@z"):
        planned(config(prompts=("a snq bear", "a bear")))


def test_features_are_kept_for_the_next_run(config, monkeypatch):
    first = evaluate(config())
    calls = []
    original = torch.nn.Module.__call__
    monkeypatch.setattr(
        torch.nn.Module, "__call__", lambda self, *a, **k: (calls.append(self), original(self, *a, **k))[1]
    )
    assert evaluate(config())["summary"] == first["summary"]
    assert not calls


def test_mistakes_are_told_before_anything_is_drawn(config, drawn, models):
    for changes, line in (
        ({"prompt_extractor": models["dino"]}, "reads images only"),
        ({"content_extractor": "no/such/model"}, "no such folder"),
        ({"baseline": "theirs"}, "is no row"),
    ):
        with pytest.raises(UserError, match=line):
            evaluate(config(**changes))
    assert not drawn


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"pictures": "x"}, "--pictures goes without"),
        ({"content_file": None, "style_file": None}, "nothing to score"),
        ({"lora_file": "x"}, "--lora-file goes without"),
        ({"prompts": ()}, "--prompts is missing"),
        ({"content_dir": None}, "--content-dir is missing"),
        ({"seeds": (1, 1)}, "each may stand there once"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, changes, line):
    with pytest.raises(UserError, match=line):
        config(**changes)


def test_a_score_is_never_a_nan_in_the_files(records):
    assert not any(
        isinstance(value, float) and math.isnan(value) for each in records for value in each.values()
    )
