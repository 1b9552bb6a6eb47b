"""Making a study: what is compared, from which folders; blind images; refusals that leave nothing behind."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest
from conftest import picture, refused
from PIL import Image
from voting import METHODS, PAIRS, a_study, folders

from b4m.apps.cli import main
from b4m.apps.vote.compose import compose
from b4m.apps.vote.make import CONSENT, LARGE
from b4m.apps.vote.material import Cell, Material, gather
from b4m.apps.vote.questions import CHECK, FILE, IMAGES, read_study
from b4m.apps.vote.settings import MakeConfig
from b4m.evaluation.manifest import Shot, write_manifest


def config(source="x", **settings) -> MakeConfig:
    return MakeConfig(source=str(source), **settings)


def named(material, settings):
    """The questions with (method, file) in place of names."""
    return compose(material, settings, lambda method, path: f"{method}:{path}")


def material(pairs=3, prompts=2, seeds=9, methods=("ours", "one", "two")) -> Material:
    cells = [
        Cell(f"pair{pair}", f"prompt {prompt}", "0", f"{seed:02d}")
        for pair in range(pairs)
        for prompt in range(prompts)
        for seed in range(seeds)
    ]
    images = {cell: {method: f"{'/'.join(cell)}/{method}" for method in methods} for cell in cells}
    return Material(
        methods, {cell.pair: ((f"{cell.pair}-c",), (f"{cell.pair}-s",)) for cell in cells}, images
    )


def test_study_one_shows_all_methods_and_asks_for_content_style_and_both():
    asked = [q for q in named(material(), config()) if q.study == "alignment" and q.asked != CHECK]
    assert Counter(q.asked for q in asked) == {"content": 20, "style": 20, "both": 20}
    for question in asked:
        assert set(question.methods) == {"ours", "one", "two"}
        assert (
            len({option.images[0].rpartition("/")[0].partition(":")[2] for option in question.options}) == 1
        )
    by_pair = Counter(q.pair for q in asked)
    assert max(by_pair.values()) - min(by_pair.values()) <= 3  # one image more or less


def test_studies_two_and_three_show_nine_seeds_of_one_prompt_by_ours_and_another():
    questions = named(material(), config(studies=("success", "consistency")))
    asked = [q for q in questions if q.asked != CHECK]
    assert Counter(q.asked for q in asked) == {
        "success": 12,
        "consistency": 12,
    }  # 3 pairs, 2 prompts, 2 others
    for question in asked:
        assert question.methods[0] == "ours" and question.methods[1] in ("one", "two")
        drawn = [[name.rpartition("/")[0].partition(":")[2] for name in o.images] for o in question.options]
        assert drawn[0] == drawn[1] and len(set(drawn[0])) == 9
        assert {name.split("/")[1] for name in drawn[0]} == {question.prompt}
    assert Counter(q.methods[1] for q in asked) == {"one": 12, "two": 12}


def test_with_few_comparisons_pairs_and_other_methods_take_turns():
    asked = [q for q in named(material(pairs=4), config(studies=("success",), items=4, checks=0))]
    assert len({q.pair for q in asked}) == 4
    assert Counter(q.methods[1] for q in asked) == {"one": 2, "two": 2}


def test_the_seed_decides_what_is_compared():
    first, again, other = (
        [replace(q, id="") for q in named(material(), config(items=5, seed=seed))] for seed in (1, 1, 2)
    )
    assert first == again and first != other


def test_too_few_seeds_of_one_prompt_become_sets_over_prompts_and_too_few_at_all_are_refused():
    mixed = named(material(prompts=3, seeds=3), config(studies=("success",), checks=0))
    assert all(len(set(q.options[0].images)) == 9 and q.prompt == "" for q in mixed)
    refused(lambda: named(material(prompts=1, seeds=8), config()), "pair0", "8 images", "--set-size 8")


def test_a_manifest_is_a_source_and_a_base_model_stands_beside_every_training(tmp_path):
    for name in ("content", "style"):
        (tmp_path / name).mkdir()
        picture(1 if name == "content" else 2).save(tmp_path / name / "0.png")
    shots = []
    for number, (row, training) in enumerate([("b4m", 0), ("b4m", 1), ("words", None)]):
        picture(10 + number).save(tmp_path / f"{number}.png")
        where = {"content_dir": tmp_path / "content", "style_dir": tmp_path / "style"}
        shots.append(
            Shot(
                tmp_path / f"{number}.png",
                "a bear",
                5,
                "bear",
                "chalk",
                **where,
                row=row,
                training_seed=training,
            )
        )
    write_manifest(tmp_path, shots)
    found = gather(tmp_path)
    assert found.methods == ("b4m", "words") and list(found.references) == ["bear | chalk"]
    assert [(cell.training, cell.prompt) for cell in found.images] == [("0", "a bear"), ("1", "a bear")]
    assert {files["words"].name for files in found.images.values()} == {"2.png"}
    assert {files["b4m"].name for files in found.images.values()} == {"0.png", "1.png"}


def test_nothing_in_the_images_says_who_made_them(tmp_path):
    folder = a_study(tmp_path)
    study = read_study(folder)
    files = sorted((folder / IMAGES).iterdir())
    assert {file.name for file in files} == set(study.images) and len(files) > 20
    for file in files:
        data = file.read_bytes()
        assert not any(method.encode() in data or method in file.name for method in METHODS), file
        with Image.open(file) as image:
            assert not set(image.info) - {"loop", "background", "timestamp", "duration"}
            assert image.format == "WEBP" and not image.getexif()
    shown = {option.images[0]: option.method for q in study.questions for option in q.options}
    pixels = {
        Image.open(tmp_path / "source" / m / p / f"{n}.png").tobytes()
        for m in METHODS
        for p in PAIRS
        for n in range(4)
    }
    drawn = [name for name, method in shown.items() if method in METHODS]
    assert all(
        Image.open(folder / IMAGES / name).convert("RGB").tobytes() in pixels for name in drawn
    )  # to the bit


def test_large_images_are_scaled_down_alike(tmp_path):
    source = folders(tmp_path / "source", pairs=("p",), images=1)
    picture(3, (3000, 2000)).save(source / METHODS[0] / "p" / "0.png")
    folder = a_study(tmp_path, studies=("alignment",))
    sizes = {max(Image.open(file).size) for file in (folder / IMAGES).iterdir()}
    assert max(sizes) == LARGE


def test_what_cannot_be_made_is_refused_and_nothing_is_left(tmp_path):
    source = folders(tmp_path / "source")
    cases = [
        ({"source": tmp_path / "none"}, "no such folder"),
        ({"source": tmp_path}, "METHOD/PAIR"),
        ({"methods": ("secretours", "other")}, "'other'"),
        ({"methods": ("secretours",)}, "two or more"),
        ({"ours": "other"}, "--ours"),
        ({"set_size": 9}, "--set-size 4"),
        ({"consent": tmp_path / "none.txt"}, "--consent"),
    ]
    for settings, words in cases:
        refused(lambda settings=settings: a_study(tmp_path, **settings), words)
    crowd = folders(tmp_path / "crowd", methods=[f"m{i}" for i in range(13)], pairs=("p",), images=1)
    refused(lambda: a_study(tmp_path, source=crowd, ours=None), "13 methods")
    shutil.rmtree(crowd)
    (source / METHODS[0] / "elsewhere").mkdir()
    refused(lambda: a_study(tmp_path), "references/elsewhere")
    (source / METHODS[0] / "elsewhere").rmdir()
    (source / METHODS[1] / PAIRS[0] / "1.png").write_bytes(b"no image")
    refused(lambda: a_study(tmp_path), "1.png")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_an_image_that_is_the_reference_itself_would_make_two_right_answers(tmp_path):
    source = folders(tmp_path / "source", pairs=("p",))
    for number in range(4):
        picture(1).save(source / METHODS[0] / "p" / f"{number}.png")  # as references/p/content.png
    refused(lambda: a_study(tmp_path), "content reference itself")
    assert not (tmp_path / "study").exists()
    assert not any(q.right for q in read_study(a_study(tmp_path, checks=0)).questions)


def test_a_study_is_never_written_over(tmp_path):
    folder = a_study(tmp_path)
    before = (folder / FILE).read_bytes()
    refused(lambda: a_study(tmp_path), "votes are never mixed")
    assert (folder / FILE).read_bytes() == before


def test_only_its_owner_reads_which_image_is_whose(tmp_path):
    assert (a_study(tmp_path) / FILE).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("questions"),
        lambda values: values.update(format=99),
        lambda values: values["images"].popitem(),
        lambda values: values["images"].update({"../../etc/passwd": "0"}),
        lambda values: values["questions"][0].update(asked="odd"),
        lambda values: values["questions"][0].update(options=3),
    ],
)
def test_a_damaged_study_is_refused(tmp_path, damage):
    folder = a_study(tmp_path)
    values = json.loads((folder / FILE).read_text())
    damage(values)
    (folder / FILE).write_text(json.dumps(values))
    refused(lambda: read_study(folder), FILE)


def test_the_command_makes_a_study_and_a_dry_run_does_not(tmp_path, capsys):
    source = str(folders(tmp_path / "source"))
    (tmp_path / "consent.txt").write_text("My own words.\n\nMore of them.")
    command = ["vote", "make", source, "--output-dir", str(tmp_path / "study"), "--set-size", "4"]
    assert main([*command, "--dry-run"]) == 0 and not (tmp_path / "study").exists()
    assert main([*command, "--consent", str(tmp_path / "consent.txt"), "--title", "Bears"]) == 0
    study = read_study(tmp_path / "study")
    assert (study.title, study.consent) == (
        "Bears",
        "My own words.\n\nMore of them.",
    ) and study.consent != CONSENT
    assert main(command) == 2
    assert main(["vote"]) == 2 and main(["vote", "mak"]) == 2
