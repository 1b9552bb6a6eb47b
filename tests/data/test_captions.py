"""Captions: wherever people write them, they are found; what is not used is named."""

import json
import unicodedata

import pytest
from samples import one, refusal, two_tone

from b4m.data import formats
from b4m.data.captions import find_captions
from b4m.data.findings import lines
from b4m.data.folder import look
from b4m.data.images import load_folder


def test_captions_beside_the_picture(tmp_path):
    for name in "abcd":
        two_tone().save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("\ufeffa photo of\n  snq bear \n", encoding="utf-8")
    (tmp_path / "b.caption").write_text("ein Bär", encoding="utf-8")
    (tmp_path / "c.txt").write_text(" \n")
    assert [p.caption for p in load_folder(tmp_path, 16)] == ["a photo of snq bear", "ein Bär", None, None]


def test_captions_from_metadata_and_the_text_beside_wins(tmp_path):
    decomposed = unicodedata.normalize("NFD", "é.png")
    for name in ("a.png", "b.png", "c.png", decomposed):
        two_tone().save(tmp_path / name)
    entries = [
        {"file_name": "b.png", "text": "from metadata"},
        {"file_name": "a.png", "text": "hidden by a.txt"},
        {"file_name": "é.png", "text": "accent"},
        {"file_name": "c.png"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n\n".join(map(json.dumps, entries)) + "\n")
    (tmp_path / "a.txt").write_text("beside")
    assert [p.caption for p in load_folder(tmp_path, 16)] == ["beside", "from metadata", None, "accent"]
    assert one(tmp_path / "b.png").caption == "from metadata"


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "a.png", "text": ',
        "[1, 2]",
        '{"text": "x"}',
        '{"file_name": "a.png", "text": 3}',
        '"a.png"',
        '{"file_name": "b.png", "text": "twice"}',
        '{"file_name": "a.png", "text": ["x"]}',
        '{"file_name": ["a.png"], "text": "x"}',
        "[" * 100_000,
    ],
)
def test_a_bad_metadata_line_is_named_by_its_number(tmp_path, line):
    for name in "ab":
        two_tone().save(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "good"}\n\n' + line + "\n")
    refusal(tmp_path, tmp_path / "metadata.jsonl", "line 3")


@pytest.mark.parametrize("name", ["a.txt", "metadata.jsonl"])
def test_text_that_is_not_utf8_is_refused(tmp_path, name):
    two_tone().save(tmp_path / "a.png")
    (tmp_path / name).write_bytes("Bär".encode("latin-1"))
    refusal(tmp_path, tmp_path / name, "UTF-8")


WORDS = "a photo of snq bear"


def folder_with(tmp_path, files: dict[str, str | bytes], *images: str):
    for name in images or ("01.png",):
        two_tone().save(tmp_path / name, "PNG")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def captions(path) -> list[str | None]:
    return [image.caption for image in load_folder(path, 16)]


def told(path) -> list[str]:
    return lines(find_captions(look(path))[1])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("01.txt", WORDS),
        ("01.TXT", WORDS),
        ("01.caption", WORDS),
        ("01.png.txt", WORDS),
        ("01.PNG.Caption", WORDS),
        ("01.txt", b"\xef\xbb\xbf" + WORDS.encode() + b"\r\n"),
        ("01.txt", WORDS.encode("utf-16")),
        ("01.txt", b"\xfe\xff" + WORDS.encode("utf-16-be")),
        ("01.txt", WORDS.replace(" ", "\r")),
        ("metadata.jsonl", f'{{"file_name": "01.png", "text": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": "01.png", "caption": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": "01.png", "prompt": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": "01.png", "text": null, "prompt": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"File Name": "01.PNG", "Text": "{WORDS}"}}\r\n\r\n'),
        ("METADATA.JSONL", f'{{"image": "./01.png", "text": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": "train/01.png", "text": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": ".\\\\train\\\\01.png", "text": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": "01", "text": "{WORDS}"}}'),
        ("metadata.jsonl", f'{{"file_name": "01.png", "text": "{WORDS}"}}'.encode("utf-16")),
        ("metadata.csv", f"file_name,text\n01.png,{WORDS}\n"),
        ("Metadata.CSV", f"\n Prompt , FileName\r\n{WORDS},01.png\r\n\r\n"),
        ("metadata.csv", f'image;caption\n01.png;"{WORDS}"\n'),
        ("metadata.csv", f"image\tcaption\n./01.png\t{WORDS}\n"),
        ("metadata.csv", f"\ufefffile_name,text\n01.png,{WORDS}\n"),
        ("metadata.csv", 'file_name,text\n01.png,"a photo\nof  snq bear"\n'),
    ],
)
def test_a_caption_is_found_wherever_people_write_it(tmp_path, name, content):
    assert captions(folder_with(tmp_path, {name: content})) == [WORDS]
    assert captions(tmp_path / "01.png") == [WORDS]
    assert not told(tmp_path)


@pytest.mark.parametrize("image", ["NFC", "NFD"])
@pytest.mark.parametrize("caption", ["NFC", "NFD"])
def test_names_match_in_any_unicode_form(tmp_path, image, caption):
    image, caption = (unicodedata.normalize(form, "Bär") for form in (image, caption))
    assert captions(folder_with(tmp_path, {f"{caption}.txt": WORDS}, f"{image}.png")) == [WORDS]


def test_the_very_name_comes_before_one_in_other_letters(tmp_path):
    files = {"a.txt": "small", "A.txt": "large", "B.txt": "of b", "C.txt": "of which?"}
    folder_with(tmp_path, files, "a.png", "A.png", "b.png", "c.png", "c.PNG", "C.jpg")
    found = {image.path.name: image.caption for image in load_folder(tmp_path, 16)}
    assert found == {
        "A.png": "large",
        "C.jpg": "of which?",
        "a.png": "small",
        "b.png": "of b",
        "c.PNG": None,
        "c.png": None,
    }


def test_a_comma_in_a_caption_needs_quotes(tmp_path):
    csv = "file_name,text\n01.png,a dog, asleep\n"
    refusal(folder_with(tmp_path, {"metadata.csv": csv}), "metadata.csv, line 2", "3 cells", "quotes")
    assert captions(
        folder_with(tmp_path, {"metadata.csv": csv.replace("a dog, asleep", '"a dog, asleep"')})
    ) == ["a dog, asleep"]


@pytest.mark.parametrize(
    ("content", "words"),
    {
        "name;words\n1;x": "line 1: no column",
        f"01.png,{WORDS}": "line 1: no column",
        "file_name,text\n,x": "line 2",
        'file_name,text\n01.png,"x': "line 2: not a table",
        "file_name,text\n01.png,x\n01.png,y": "line 3: a second caption",
        "file_name,text\n01.png," + "x" * 200_000: "line 2: not a table",
    }.items(),
)
def test_a_bad_table_is_named_by_its_line(tmp_path, content, words):
    refusal(folder_with(tmp_path, {"metadata.csv": content}), f"metadata.csv, {words}")


@pytest.mark.parametrize(
    "content", [b"\xff\xfea", "x\0y".encode("utf-16-le"), b"\xff\xfe\0\0a\0\0\0", b"a\0b"]
)
def test_text_that_is_no_text_is_refused(tmp_path, content):
    refusal(folder_with(tmp_path, {"01.txt": content}), "01.txt", "UTF-8")


def test_half_a_letter_is_refused(tmp_path):
    line = '{"file_name": "01.png", "text": "\\ud800"}'
    refusal(folder_with(tmp_path, {"metadata.jsonl": line}), "metadata.jsonl, line 1", "no text")


def test_what_is_not_used_is_named(tmp_path):
    files = {
        "01.txt": "used",
        "01.caption": "other",
        "02.txt": " \n",
        "03.txt": "",
        "notes.txt": "\xff not even text",
        "metadata.jsonl": '{"file_name": "03.png", "text": "used"}\n{"file_name": "gone.png", "text": "x"}\n'
        '{"file_name": "01.png", "text": "used"}\n{"file_name": "sub/1.png", "text": "x"}',
    }
    (tmp_path / "sub").mkdir()
    two_tone().save(tmp_path / "sub/1.png")
    folder_with(tmp_path, files, "01.png", "02.png", "03.png")
    assert captions(tmp_path) == ["used", None, "used"]
    assert [line.replace(f"{tmp_path.name}/", "") for line in told(tmp_path)] == [
        "caption of no image here: notes.txt, metadata.jsonl (gone.png)",
        "caption not used, since another of its image comes first: 01.caption (of 01.png)",
        "empty caption: 02.txt (of 02.png)",
    ]
    assert not find_captions(look(tmp_path / "01.png"))[1][1:]  # nothing of the other images


def test_columns_that_hold_no_caption_are_named(tmp_path):
    folder_with(tmp_path, {"metadata.csv": "file_name,description\n01.png,x\n"})
    (line,) = (line for line in told(tmp_path) if line.startswith("no captions"))
    assert "text, caption or prompt" in line and "metadata.csv (has file_name, description)" in line


def test_captions_of_images_left_out_are_not_called_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_heif", lambda: False)
    (tmp_path / "02.heic").write_bytes(b"x")
    line = '{"file_name": "02.heic", "text": "x"}'
    assert not told(folder_with(tmp_path, {"02.txt": "x", "metadata.jsonl": line}))


def test_where_a_caption_comes_from(tmp_path):
    files = {"01.TXT": "x", "metadata.csv": "file_name,prompt\n02.png,y"}
    folder_with(tmp_path, files, "01.png", "02.png", "03.png")
    assert [image.caption_from for image in load_folder(tmp_path, 16)] == [
        ".txt",
        "metadata.csv (prompt)",
        "",
    ]


def test_a_caption_that_could_be_of_two_images_is_of_none(tmp_path):
    assert captions(folder_with(tmp_path, {"aB.txt": "of which?"}, "ab.png", "AB.png")) == [None, None]
    assert told(tmp_path) == [f"caption of no image here: {tmp_path.name}/aB.txt"]


def test_captions_of_other_images_are_not_read_with_one(tmp_path):
    folder_with(tmp_path, {"01.txt": WORDS, "02.txt": b"\xe4 in another encoding"}, "01.png", "02.png")
    assert captions(tmp_path / "01.png") == [WORDS]
    refusal(tmp_path, "02.txt", "UTF-8")
