"""What a training says of its inputs: everything that was given is used, or named with the reason."""

import json
import shutil

import pytest
from conftest import picture

from b4m.data.inputs import NAMELESS, Group, read_inputs
from b4m.data.summary import UNCHECKED, Cut, summarise


def files(folder, **captions: str | None):
    """A folder with an image for each name, and a caption where it is not None."""
    folder.mkdir(exist_ok=True)
    for index, (name, caption) in enumerate(captions.items()):
        picture(index).save(folder / f"{name}.png")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption)
    return str(folder)


def told(*groups: Group, cut: Cut | None = None):
    """The lines, and pictures.json by file name."""
    inputs = read_inputs(groups, 16, "crop")
    summary = summarise(inputs, cut or Cut(77, ("",) * len(inputs.prompts)))
    assert all(line.isprintable() for line in summary.lines)
    return summary.lines, {
        entry["file"].rsplit("/", 1)[-1]: entry for entry in json.loads(json.dumps(summary.entries))
    }


def test_a_run_without_oddities_takes_a_line_for_each_kind(tmp_path):
    content = Group(
        "content", [files(tmp_path / "c", a=None, b="a snq bear")], "a photo of snq bear", trigger="snq"
    )
    partners = [
        Group("style", [files(tmp_path / name, x=caption)], f"a picture in {name} style", partner=True)
        for name, caption in (("chalk", None), ("neon", "a star in neon style"))
    ]
    lines, entries = told(content, *partners)
    assert lines == [
        'content: 2 images; captions: 1 from .txt, 1 missing (used: "a photo of snq bear")',
        'partner style: 2 images; captions: 1 from .txt, 1 missing (used: "a picture in chalk style")',
    ]
    assert [entry["prompt_from"] for entry in entries.values()] == [
        "settings",
        ".txt",
        ".txt",
    ]  # two are called x.png
    assert all(entry["notes"] == [] for entry in entries.values())


@pytest.mark.parametrize(
    ("captions", "what"),
    [
        (
            {"a": "a red car", "b": "a car"},
            "no caption holds the word snq (it will not call the content): c/a.png, c/b.png",
        ),
        (
            {"a": "a snq car", "b": "a snqs car"},
            "caption without the word snq that will call the content: c/b.png",
        ),
        ({"a": "a SNQ's car", "b": "snq"}, None),
    ],
)
def test_captions_without_the_trigger_word_are_named(tmp_path, captions, what):
    lines, entries = told(Group("content", [files(tmp_path / "c", **captions)], "x", trigger="snq"))
    assert lines[1:] == ([what] if what else [])
    assert bool(entries["b.png"]["notes"]) == bool(what)


def test_a_trigger_in_any_unicode_form(tmp_path):
    group = Group("content", [files(tmp_path / "c", a="a ca\u0301r")], "x", trigger="c\u00e1r")
    assert told(group)[0][1:] == []
    assert (
        told(Group("content", [files(tmp_path / "d", a="in w@z style, (w@z)")], "x", trigger="w@z"))[0][1:]
        == []
    )


def test_words_that_are_cut_off_are_told_and_the_trigger_among_them(tmp_path):
    rest = "x" * 300 + " snq bear"
    group = Group("content", [files(tmp_path / "c", a=f"a photo {rest}", b="a snq")], "x", trigger="snq")
    lines, entries = told(group, cut=Cut(77, (rest, "")))
    assert lines[1] == "caption without the word snq that will call the content: c/a.png"
    assert lines[2].startswith(
        "caption longer than the 77 tokens that this base model reads, cut off: c/a.png ("
    )
    assert lines[2].endswith(' snq bear")') and len(lines[2]) < 300
    assert rest in entries["a.png"]["notes"][1]
    assert UNCHECKED in summarise(read_inputs([group], 16, "crop"), None).lines


def test_what_was_left_out_is_told_and_written_down(tmp_path):
    folder = tmp_path / "c"
    files(folder, a="snq")
    (folder / "10_snq car").mkdir()
    shutil.copy(folder / "a.png", folder / "10_snq car/b.png")
    (folder / "film.mp4").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    lines, entries = told(Group("content", [str(folder)], "x", trigger="snq"))
    assert sum(line.startswith("left out, ") for line in lines) == 2 and len(lines) == 4
    assert {name: entry["shows"] for name, entry in entries.items()} == {
        "a.png": "content", "10_snq car": "nothing", "film.mp4": "nothing", "notes.txt": "nothing"
    }  # fmt: skip
    assert entries["10_snq car"]["notes"][0].endswith("1 image") and entries["10_snq car"]["sha256"] is None


def test_partners_named_by_a_camera_are_asked_for(tmp_path):
    files(tmp_path, IMG_2041=None, DSC00012="a star in chalk style", watercolour=None)
    names = [str(tmp_path / f"{name}.png") for name in ("IMG_2041", "DSC00012", "watercolour")]
    groups = [Group("style", [name], "a picture in another style", partner=True) for name in names]
    assert told(*groups)[0][1:] == [f"{NAMELESS}: {tmp_path.name}/IMG_2041.png (a picture in another style)"]
    given = [Group("style", [name], "a star", partner=True, given="--partner-prompts") for name in names]
    unused = "--partner-prompts not used, since all images have captions of their own"
    assert told(*given)[0][1:] == [f"{unused}: {tmp_path.name}/DSC00012.png"]


def test_a_prompt_that_no_image_takes_is_named(tmp_path):
    folder = files(tmp_path / "c", a="snq", b="snq")
    lines, _ = told(Group("content", [folder], "my snq", trigger="snq", given="--prompt"))
    assert lines[1:] == [f"--prompt not used, since all images have captions of their own: {tmp_path.name}/c"]


def test_names_that_no_terminal_shows_are_escaped(tmp_path):
    (tmp_path / "c").mkdir()
    picture(1).save(tmp_path / "c" / "a\n\x1b[2J.png")
    assert "a\\n\\x1b[2J.png" in told(Group("content", [str(tmp_path / "c")], "x", trigger="snq"))[0][1]
