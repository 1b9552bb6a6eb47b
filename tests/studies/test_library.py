"""A library on the tiny base: everything once, killed, moved, grown; its page and its index."""

import hashlib
import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest
import yaml
from conftest import picture, refused

import b4m.studies.doing as doing
import b4m.studies.index as index
from b4m.apps.cli import main
from b4m.core.lock import exclusive
from b4m.data import references
from b4m.files.opening import open_any
from b4m.studies.library import dry_run, library, plan_library
from b4m.studies.run import work
from b4m.studies.settings import LibraryConfig

datasets = pytest.importorskip("datasets")
ENCODERS = Path(__file__).parents[2] / "examples" / "world" / "encoders"
DIALS = 3


@pytest.fixture(scope="module")
def make(tiny_base, folders, tmp_path_factory):
    """A library of two contents and one style in a folder of its own, as a function: make(seeds=[1])."""

    def written(root: Path | None = None, **changes) -> LibraryConfig:
        root = root or tmp_path_factory.mktemp("library")
        values = {
            "contents": [folders["content"], folders["contents"][0]],
            "styles": [folders["style"]],
            "partner_styles": [*folders["styles"]],
            "partner_contents": [*folders["contents"]],
            "prompts": ["a {content} in {style} style"],
            "seeds": [0],
            "classes": {"content": "bear", "style": "yarn"},
            "settings": {"base_model": tiny_base, "resolution": 16},
            "train": {"rank": 4, "steps": 1},
            "second": {"steps": 1},
            "generate": {"steps": 1, "size": 16},
            "score": False,
            **changes,
        }
        (root / "try.yaml").write_text(
            yaml.safe_dump({k: v for k, v in values.items() if v is not None}, sort_keys=False)
        )
        return LibraryConfig(str(root / "try.yaml"), output_dir=str(root / "out"))

    return written


@pytest.fixture(scope="module")
def finished(make) -> LibraryConfig:
    """Scored. Not to be changed: tests take copies."""
    extractors = {f"{kind}_extractor": str(ENCODERS / kind) for kind in ("content", "style", "prompt")}
    judges = {f"{kind}_judge": None for kind in ("content", "style", "background", "colour")}
    config = make(score=True, evaluate={**extractors, **judges})
    library(config)
    return config


@pytest.fixture
def copied(finished, make, tmp_path):
    """A copy of the finished library's work, to be gone on with under other settings: copied(seeds=[1])."""

    def go_on(**changes) -> LibraryConfig:
        shutil.copytree(finished.output_dir, tmp_path / "out")
        return make(tmp_path, **changes)

    return go_on


@pytest.fixture
def done(monkeypatch) -> Counter:
    """What is trained (stages), put on the base model ("pair") and drawn ("image") from here on."""
    counted = Counter()

    def counting(name, what):
        function = getattr(doing, name)

        def counted_function(*given, **named):
            counted[what(*given)] += 1
            return function(*given, **named)

        monkeypatch.setattr(doing, name, counted_function)

    counting("train", lambda config: config.stage)
    counting("attach_for", lambda *_: "pair")
    counting("save_png", lambda *_: "image")
    return counted


def page_of(config: LibraryConfig) -> Path:
    return Path(config.output_dir) / "results" / config.name / "gallery" / "index.html"


def table(config: LibraryConfig, name: str = index.IMAGES) -> list[dict]:
    return datasets.Dataset.from_parquet(str(page_of(config).parents[1] / name)).to_list()


def images_of(config: LibraryConfig) -> dict[str, bytes]:
    root = Path(config.output_dir)
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / "pictures").rglob("*.png")}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_index_has_every_image_with_its_settings_scores_and_hashes(finished):
    lines, root = table(finished), Path(finished.output_dir)
    assert [
        (line["content"], line["style"], line["dial"]) for line in lines if line["content"] == "house"
    ] == [("house", "yarn", dial) for dial in ("more content", "both", "more style")]
    assert len(lines) == 2 * DIALS and len({line["image"] for line in lines}) == len(lines)
    for line in lines:
        assert line["image_sha256"] == sha256(root / line["image"])
        for role in ("content_file", "style_file"):
            assert line[f"{role}_sha256"] == sha256(root / line[role])
        assert line["prompt"] == f"a snq {line['content']} in w@z yarn style" and line["seed"] == 0
        assert line["pair"] == f"{line['content']} in yarn" and line["method"] == "composed"
        settings = json.loads(line["settings"])
        assert settings["style_strength"] == line["style_strength"] and settings["size"] == 16
        assert all(-1 <= line[f"score_{name}"] <= 1 for name in ("content", "style", "prompt", "average"))
    concepts = table(finished, index.CONCEPTS)
    assert Counter(line["stage"] for line in concepts) == {"content": 2, "style": 1}
    assert {line["file_sha256"] for line in concepts} == {sha256(root / line["file"]) for line in concepts}
    assert json.loads(concepts[0]["settings"])["rank"] == 4


class Page(HTMLParser):
    """Every path that a page names, every image of its table, and its data."""

    def __init__(self, text: str):
        super().__init__()
        self.paths, self.cells, self.data, self.tag = set(), [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tag = found.get("id", tag)
        self.paths |= {found[name] for name in ("src", "href") if name in found}
        if found.get("alt"):
            self.cells.append((found["alt"], found["src"]))

    def handle_data(self, data):
        if self.tag == "data":
            self.data = json.loads(data)
            self.tag = ""


def test_the_gallery_is_one_folder_that_needs_nothing_else(finished, tmp_path):
    folder = shutil.copytree(page_of(finished).parent, tmp_path / "stick")
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|localStorage", text)
    named = page.paths | {image["file"] for image in page.data["images"]}
    assert all((folder / name).is_file() for name in named)
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert kept == named | {"index.html"}


def test_the_page_shows_contents_down_and_styles_across_before_any_script_runs(copied, folders):
    config = copied(
        styles=[folders["style"], folders["styles"][0]],
        seeds=[0, 1],
        classes={"style": "<b>", "content": "bear"},
    )
    library(config)
    page = Page(page_of(config).read_text(encoding="utf-8"))
    names = [alt for alt, _ in page.cells]
    assert names == [f"{content} in {style}" for content in ("bear", "house") for style in ("<b>", "chalk")]
    by_image = {Path(line["image"]).with_suffix("").as_posix(): line for line in table(config)}
    listed = [
        by_image[f"pictures/{Path(i['file']).with_suffix('').as_posix()[7:]}"] for i in page.data["images"]
    ]
    pairs = product(("bear", "house"), ("<b>", "chalk"))
    wanted = [(*pair, dial, seed) for pair in pairs for dial in page.data["dials"] for seed in (0, 1)]
    assert [(x["content"], x["style"], x["dial"], x["seed"]) for x in listed] == wanted
    assert [src for _, src in page.cells] == [image["file"] for image in page.data["images"][2::6]]
    assert page.data["texts"][3] == "a house in chalk style"


def test_one_more_style_is_one_training_and_a_pair_for_each_content(copied, folders, done):
    config = copied(styles=[folders["style"], folders["styles"][0]])
    before = images_of(config)
    assert re.search(r"style +2, +1 to do(.|\n)*pairs: 4, 2 to draw", dry_run(config))
    library(config)
    assert done == {"style": 1, "pair": 2, "image": 2 * DIALS}
    assert len(table(config)) == 4 * DIALS and before.items() <= images_of(config).items()


def test_folders_that_are_moved_retrain_and_redraw_nothing(copied, folders, done, tmp_path):
    moved = tmp_path / "elsewhere"
    for name in ("content", "style", "contents/house", "contents/car", "styles/chalk", "styles/neon"):
        shutil.copytree(Path(folders["content"]).parent / name, moved / "deep" / name)
    deep = moved / "deep"
    (deep / "style").rename(deep / "renamed")
    config = copied(
        contents=[str(deep / "content"), str(deep / "contents/house")],
        styles=[str(deep / "renamed")],
        classes={"renamed": "yarn", "content": "bear"},
        partner_styles=[str(deep / "styles" / name) for name in ("chalk", "neon")],
        partner_contents=[str(deep / "contents" / name) for name in ("house", "car")],
    )
    library(config)
    assert not done
    picture(99).save(deep / "renamed" / "0.png")
    library(config)
    assert done == {"style": 1, "pair": 2, "image": 2 * DIALS}


def test_more_prompts_and_seeds_draw_what_is_new(copied, done):
    config = copied(prompts=["a {content} in {style} style", "a {style} {content}"], seeds=[0, 1])
    before = images_of(config)
    library(config)
    assert done == {"pair": 2, "image": 2 * DIALS * 3}
    assert before.items() <= images_of(config).items()


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_killed_anywhere_it_repeats_nothing_and_ends_the_same(
    moment, finished, make, folders, tmp_path, monkeypatch
):
    """Moments: between two trainings, before the pair, inside it."""
    dials = {"more content": [1, 0.7], "both": [1, 1]}
    config, happened = make(tmp_path, contents=[folders["content"]], dials=dials), []
    originals = {name: getattr(doing, name) for name in ("train", "save_png")}

    def dying(name, kill):
        def does(first, *rest):
            if kill and len(happened) == moment:
                raise KeyboardInterrupt
            result = originals[name](first, *rest)
            happened.append(getattr(first, "output_dir", str(first)))
            return result

        return does

    for kill in (True, False):
        for name in originals:
            monkeypatch.setattr(doing, name, dying(name, kill))
        if kill:
            with pytest.raises(KeyboardInterrupt):
                library(config)
            assert len(happened) == moment and not page_of(config).exists()
        else:
            library(config)
    assert len(happened) == len({*happened}) == 2 + 2
    again, whole = (
        {name: data[data.index(b"IDAT") :] for name, data in images_of(each).items()}
        for each in (config, finished)
    )
    assert len(again) == 2 and again.items() <= whole.items()


def test_a_gallery_shows_no_image_of_what_was_taken_out(copied, folders):
    config = copied(contents=[folders["content"]])
    library(config)
    page = Page(page_of(config).read_text(encoding="utf-8"))
    assert {path.name for path in page_of(config).parent.rglob("*.webp")} == {
        Path(name).name for name in page.paths | {image["file"] for image in page.data["images"]}
    }
    assert len(images_of(config)) == 2 * DIALS  # which come back with the content


def test_pairs_are_files_only_when_asked(copied):
    config = copied(fused=True)
    before = {path.suffix for path in Path(config.output_dir).rglob("*") if path.parent.name == "fused"}
    library(config)
    fused = sorted((Path(config.output_dir) / "fused").iterdir())
    assert not before and len(fused) == 2 and all(open_any(path).layers for path in fused)


def test_the_page_is_one_processs(copied):
    config = copied()
    with exclusive(page_of(config).parents[1]):
        assert library(config) is None


def test_dry_run_writes_nothing_and_knows_the_time_once_something_is_done(make, finished, tmp_path, capsys):
    config = make(tmp_path, seconds={"content": 3600, "style": 3600, "picture": 0})
    assert main(["library", config.build, "--output-dir", config.output_dir, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 contents x 1 styles" in text and "hours left, one process: 3.0" in text
    assert re.search("picture +6, +6 to do", text) and not Path(config.output_dir).exists()
    assert "hours left, one process: 0.0" in dry_run(finished)


def keys(config) -> dict[str, str]:
    """Of the trainings: content0, style1, content2."""
    trainings = plan_library(config)[1].trainings
    return {f"{each.config.stage}{n}": key for n, (key, each) in enumerate(trainings.items())}


def test_what_decides_a_training_renames_it_and_nothing_else_does(make, folders, tmp_path):
    before = keys(make())
    assert keys(make(settings={**settings_of(make()), "tracker": "tensorboard"})) == before
    assert not {*keys(make(train={"rank": 8, "steps": 1})).values()} & {*before.values()}
    for name in ("chalk", "neon"):
        shutil.copytree(Path(folders["styles"][0]).parent / name, tmp_path / name)
    partners = [str(tmp_path / name) for name in ("chalk", "neon")]
    assert keys(make(partner_styles=partners)) == before
    (tmp_path / "chalk").rename(tmp_path / "crayon")  # it is called so in the prompts that it is learned with
    renamed = keys(make(partner_styles=[str(tmp_path / "crayon"), partners[1]]))
    assert [name for name in before if renamed[name] != before[name]] == ["content0", "content2"]
    shutil.copytree(folders["style"], tmp_path / "style")
    (tmp_path / "style" / "0.txt").write_text("a picture of a house")
    captioned = keys(make(styles=[str(tmp_path / "style")]))
    assert [name for name in before if captioned[name] != before[name]] == ["style1"]


def test_rows_of_a_data_set_are_the_work_that_the_same_files_are(make, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "kept_in", lambda: tmp_path)
    columns = {"image": [], "kind": []}
    for kind, folder in (("bear", folders["content"]), ("house", folders["contents"][0])):
        for file in sorted(Path(folder).iterdir()):
            columns["image"].append({"bytes": file.read_bytes(), "path": None})
            columns["kind"].append(kind)
    path = tmp_path / "toys.parquet"
    datasets.Dataset.from_dict(columns).to_parquet(path)
    ours = make(contents=[f"{path},kind==bear", f"{path},kind==house"], classes={"style": "yarn"})
    assert keys(ours) == keys(make())


def test_images_that_change_while_the_library_is_made_are_not_learned_under_the_old_name(
    make, folders, tmp_path
):
    shutil.copytree(folders["style"], tmp_path / "style")
    config = make(styles=[str(tmp_path / "style")])
    plan = plan_library(config)[1]
    content, style, _ = plan.trainings.values()
    picture(99).save(tmp_path / "style" / "0.png")
    plan.names.check(content)
    refused(lambda: plan.names.check(style), "style", "have changed since", "again")
    refused(lambda: work(plan, config, "try"), "have changed since")
    assert not style.folder.exists()


def settings_of(config) -> dict:
    return yaml.safe_load(Path(config.build).read_text())["settings"]


def test_datasets_are_asked_for_before_anything_is_trained(make, tmp_path, monkeypatch):
    config = make(tmp_path)
    monkeypatch.setattr(index, "find_spec", lambda name: None)
    refused(lambda: library(config), "pip install 'b4m[library]'")
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"styles": None}, "styles is missing"),
        ({"styles": ["/nowhere"]}, "/nowhere"),
        ({"partner_styles": None}, "partner_styles: none given; a content is learned beside some"),
        ({"rows": {"a": {}}}, "unknown setting 'rows'; known: title, contents, "),
        ({"style": []}, "unknown setting 'style'"),
        ({"methods": ["magic"]}, "method 'magic': not known"),
        ({"methods": ["words"]}, "methods: words trains nothing"),
        ({"methods": []}, "methods: empty"),
        ({"dials": {}}, "dials: empty"),
        ({"dials": {"much": 2}}, "dials: much is 2; expected [content strength, style strength]"),
        ({"dials": {"much": [1e9, 1]}}, "--content-strength"),
        ({"generate": {"style_strength": 2}}, "a library says its strengths under dials"),
        ({"prompts": ["x", "x"]}, "prompts: 'x' stands there twice"),
        ({"classes": {"content": "house"}}, "contents: 'house' stands there twice; give their folders"),
        ({"train": {"rnak": 1}}, "unknown setting 'rnak'"),
        ({"prompts": ["a photo of " * 6]}, "longer than the 16 tokens that"),
        ({"seeds": ["x"]}, "whole number"),
    ],
)
def test_a_wrong_file_is_one_line(changes, words, make, tmp_path, capsys):
    config = make(tmp_path, **changes)
    assert main(["library", config.build, "--output-dir", config.output_dir]) == 2
    out, err = capsys.readouterr()
    assert (
        not out and err.startswith(f"b4m: error: {config.build}: ") and err.count("\n") == 1 and words in err
    )
    assert not Path(config.output_dir).exists()


def test_a_file_that_is_not_there_or_no_yaml_is_one_line(tmp_path, capsys):
    refused(lambda: LibraryConfig(str(tmp_path / "no.yaml")), "build", "no such file")
    (tmp_path / "bad.yaml").write_text("a: [")
    assert main(["library", str(tmp_path / "bad.yaml"), "--dry-run"]) == 2
    assert "not a YAML file" in capsys.readouterr().err
