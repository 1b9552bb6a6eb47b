"""Cells by what decides them, sheets, and what the drawing process does, on the tiny base."""

import dataclasses
import shutil

import pytest
from conftest import refused
from PIL import Image

from b4m.apps.studio import cells, drawing, exporting, library, sheet, taking_in
from b4m.apps.studio.cells import Shot
from b4m.apps.studio.exporting import Wish
from b4m.apps.studio.project import Base, Project
from b4m.apps.studio.sheet import Look

LOOK = Look(seeds=(1,), steps=2, size=16, guidance=1.0)


@pytest.fixture
def tiny(project, taught, tiny_base, monkeypatch):
    """The project on the tiny base, in its folder as the drawing process is."""
    monkeypatch.chdir(project.folder)
    monkeypatch.setattr(drawing, "_models", {})
    monkeypatch.setattr(drawing, "_attached", {})
    return Project(project.folder, Base("embedded", tiny_base))


class Here:
    """The worker's calls, in this process."""

    def ask(self, function, *arguments):
        return function(*arguments)


def draw(project, shot):
    name = cells.key(project, shot)
    cell = project.relative(project.cell(name))
    drawing.draw(project.base.preset, project.base.settings(), cell, shot.prompt, shot.seed, shot.settings)
    return name


def test_a_pair_may_be_drawn_as_a_sum_of_predictions_and_one_of_the_two_not(tiny, taught):
    summed = dataclasses.replace(LOOK, summed=True, guidance=2.0)
    pair = sheet.shot_of(tiny, summed, 1, taught["content"], taught["style"])
    assert pair.settings["compose"] == "predictions"
    assert "--compose predictions" in cells.shown_command(tiny, pair)
    weights = sheet.shot_of(
        tiny, dataclasses.replace(summed, summed=False), 1, taught["content"], taught["style"]
    )
    drawn = [Image.open(tiny.cell(draw(tiny, shot))) for shot in (pair, weights)]
    assert drawn[0].tobytes() != drawn[1].tobytes() and drawn[0].info["compose"] == "predictions"
    for files in ((taught["content"], None), (None, taught["style"]), (None, None, taught["lora"])):
        assert "compose" not in sheet.shot_of(tiny, summed, 1, *files).settings


@pytest.mark.parametrize(("preset", "drawn"), [("embedded", (8, 2.0, 128)), ("sdxl", (25, 5.0, 1024))])
def test_the_form_starts_with_what_suits_the_base(project, preset, drawn):
    look = sheet.usual(Project(project.folder, Base(preset)))
    assert (look.steps, look.guidance, look.size) == drawn


def test_whatever_has_files_may_be_guided_against_the_base_model(tiny, taught):
    led, usual = (dataclasses.replace(LOOK, against_base=on, guidance=2.0) for on in (True, False))
    fused = (None, None, taught["lora"])
    for files in ((taught["content"], taught["style"]), (taught["content"], None), fused):
        assert sheet.shot_of(tiny, led, 1, *files).settings["negative"] == "base"
        assert sheet.shot_of(tiny, usual, 1, *files).settings["negative"] == "adapted"
    assert "negative" not in sheet.shot_of(tiny, led, 1, None, None).settings
    shots = [sheet.shot_of(tiny, look, 1, *fused) for look in (led, usual)]
    assert "--negative base" in cells.shown_command(tiny, shots[0])
    one, other = (Image.open(tiny.cell(draw(tiny, shot))) for shot in shots)
    assert one.tobytes() != other.tobytes() and one.info["negative"] == "base"


def test_a_cell_is_named_by_all_that_decides_it_and_by_nothing_else(tiny, taught):
    shot = sheet.shot_of(tiny, LOOK, 1, taught["content"], taught["style"])
    name = cells.key(tiny, shot)
    others = [
        shot.with_(content_strength=0.5),
        shot.with_(steps=3),
        shot.with_(negative_prompt="x"),
        shot.bare(),
        Shot(shot.prompt, 2, shot.settings),
        Shot("another", 1, shot.settings),
    ]
    assert len({name, *(cells.key(tiny, other) for other in others)}) == 7
    library.rename(tiny, taught["content"].ident, "Renamed")
    moved = library.create(tiny, "content", "Copy")
    library.file_of(tiny, moved).parent.mkdir(parents=True)
    shutil.copyfile(library.file_of(tiny, taught["content"]), library.file_of(tiny, moved))
    assert cells.key(tiny, sheet.shot_of(tiny, LOOK, 1, moved, taught["style"], None)) != ""
    same = shot.with_(content_file=tiny.relative(library.file_of(tiny, moved)))
    assert cells.key(tiny, same) == name  # the same bytes elsewhere
    shutil.copyfile(library.file_of(tiny, taught["style"]), library.file_of(tiny, taught["content"]))
    assert cells.key(tiny, shot) != name  # other bytes in the same place


def test_an_image_says_how_it_was_drawn_and_is_drawn_again_from_that(tiny, taught):
    shot = sheet.shot_of(tiny, LOOK, 1, taught["content"], taught["style"], dials=(0.5, 2.0))
    name = draw(tiny, shot)
    said = cells.read_back(tiny, name)
    assert cells.key(tiny, said) == name and cells.missing(tiny, [shot]) == []
    before = Image.open(tiny.cell(name)).tobytes()
    tiny.cell(name).unlink()
    assert draw(tiny, said) == name and Image.open(tiny.cell(name)).tobytes() == before
    command = cells.shown_command(tiny, said)
    assert "b4m generate" in command and "--style-strength 2.0" in command and str(tiny.folder) not in command


def test_a_sheet_has_every_pair_and_a_bare_first_row(tiny, taught):
    made = sheet.grid(tiny, [taught["content"]], [taught["style"]], LOOK)
    files = [[sorted(set(place.settings) & set(cells.FILES)) for place in row] for row in made.places]
    assert files == [[[], ["style_file"]], [["content_file"], ["content_file", "style_file"]]]
    made = sheet.strengths(tiny, LOOK, taught["content"], taught["style"], values=(0.0, 1.0))
    assert made.rows == ("no adapter", "0", "1") and len(made.shots) == 5
    assert not set(made.shots[0].settings) & set(cells.FILES)
    assert made.places[2][0].settings["content_strength"] == 1.0
    assert made.places[2][0].settings["style_strength"] == 0.0


def test_a_lora_from_elsewhere_has_one_dial(tiny, taught):
    lora = dataclasses.replace(taught["lora"], two_dials=False)
    made = sheet.strengths(tiny, LOOK, None, None, lora, values=(0.0, 1.0))
    assert [[isinstance(place, Shot) for place in row] for row in made.places] == [
        [True, False],
        [True, False],
        [False, True],
    ]
    turned = sheet.shot_of(tiny, LOOK, 1, None, None, lora, dials=(0.5, 2.0))
    assert turned.settings["style_strength"] == turned.settings["content_strength"] == 0.5


def test_pairs_that_do_not_go_together_say_why_in_their_place(tiny, taught, monkeypatch):
    monkeypatch.setattr(library, "differences", lambda one, other: "another rank 4 against 8")
    made = sheet.grid(tiny, [taught["content"]], [taught["style"]], LOOK)
    assert made.places[1][1] == "another rank 4 against 8"


def test_sheets_have_an_end_and_need_something(tiny, taught):
    refused(lambda: sheet.grid(tiny, [taught["content"]] * 400, [taught["style"]], LOOK), "400 are allowed")
    refused(lambda: sheet.grid(tiny, [], [], LOOK), "nothing is chosen")
    refused(lambda: sheet.strengths(tiny, LOOK, taught["content"], None), "a pair is needed")


def test_an_image_that_names_a_file_elsewhere_is_not_drawn_again(tiny, trained):
    for path in (trained["content_file"], "../../x.safetensors"):
        refused(lambda path=path: cells.key(tiny, Shot("x", 1, {"content_file": path})), "not in the project")
        refused(
            lambda path=path: cells.key(tiny, Shot("x", 1, {"base_lora": path})),
            "--base-lora",
            "does not load",
        )
    beside = {"style_file": "x", "more_files": (trained["content_file"],)}
    refused(lambda: cells.key(tiny, Shot("x", 1, beside)), "--more-files", "does not load")


def test_prompts_and_settings_are_those_that_generate_takes(tiny):
    refused(lambda: cells.check(tiny, [Shot("x" * 5000, 1, {})]), "--prompts")
    refused(lambda: cells.check(tiny, [Shot("x", 1, {"steps": 0})]), "--steps")


@pytest.mark.parametrize("kind", ["content", "style", "lora"])
def test_a_file_from_elsewhere_becomes_a_card(tiny, taught, kind, tmp_path):
    upload = shutil.copyfile(library.file_of(tiny, taught[kind]), tmp_path / "up.safetensors")
    one = taking_in.take_in(tiny, Here(), upload, "From <elsewhere>")
    assert (one.kind, one.name, one.imported) == (kind, "From <elsewhere>", True)
    assert library.ready(tiny, one) and library.facts(tiny, one)


def test_a_hostile_file_is_refused_as_on_the_command_line_and_nothing_kept(tiny, tmp_path):
    bad = tmp_path / "bad.safetensors"
    for data in (b"", b"\xff" * 100, (2**40).to_bytes(8, "little") + b"{}", b"\x80\x04cposix\nsystem\n"):
        bad.write_bytes(data)
        line = refused(lambda: taking_in.take_in(tiny, Here(), bad, "bad"), "bad.safetensors")
        assert str(tmp_path) not in line
    (tmp_path / "link.safetensors").symlink_to(bad)
    refused(lambda: taking_in.take_in(tiny, Here(), tmp_path / "link.safetensors", ""), "not a regular file")
    assert len(library.concepts(tiny)) == 3


def test_an_export_is_a_file_of_b4ms_own_and_its_name_harmless(tiny, taught, tiny_base):
    named = library.rename(tiny, taught["content"].ident, "../../<b>Bär")
    wish = Wish(named, taught["style"], dialect="kohya")
    given = exporting.settings(tiny, wish)
    assert given["output"] == "exports/b-B-r-My-style-kohya.safetensors"
    drawing.export({**given, "base_model": tiny_base}, "embedded")
    assert drawing.examine(given["output"])["kind"] == "lora"
    assert exporting.settings(tiny, wish)["output"].endswith("-2.safetensors")


def test_the_workflow_is_a_chain_from_the_checkpoint_to_the_image():
    nodes = exporting.workflow("a.safetensors", "base.safetensors", "a snq bear")
    links = [
        (name, link[0])
        for name, node in nodes.items()
        for link in node["inputs"].values()
        if isinstance(link, list)
    ]
    assert all(source in nodes for _, source in links)
    reached, front = set(), {"8"}
    while front:
        reached |= front
        front = {source for name, source in links if name in front} - reached
    assert reached == set(nodes)
