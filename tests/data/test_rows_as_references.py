"""References from data sets: the same bytes, captions, checks and results as from a folder."""

import json
import tarfile

import pytest
import sets
from conftest import refused
from samples import noise, stored

from b4m.data import references as kept
from b4m.data.identity import identity, is_reference
from b4m.data.images import open_pictures, read_folder
from b4m.data.references import references
from b4m.training.loop import train

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    """Where images are kept, which is no user's own."""
    folder = tmp_path_factory.mktemp("kept")
    monkeypatch.setattr(kept, "kept_in", lambda: folder)
    kept._kept.cache_clear()
    return folder


@pytest.fixture(params=["parquet", "webdataset", "imagefolder"])
def toys(request, tmp_path) -> str:
    """The bears among the toys, spelled."""
    if request.param == "parquet":
        return f"{sets.parquet(tmp_path / 'toys.parquet')},caption=words,kind==bear"
    if request.param == "webdataset":
        return f"{sets.webdataset(tmp_path / 'toys.tar')},json.kind==bear"
    return f"{sets.imagefolder(tmp_path / 'toys')}:train,kind==bear"


def test_rows_are_the_same_references_as_files(toys, tmp_path):
    folder = str(sets.folder(tmp_path / "bears"))
    assert is_reference(toys) and identity(toys) == identity(folder)
    ours, theirs = read_folder(toys, 16), read_folder(folder, 16)
    for mine, other in zip(ours.pictures, theirs.pictures, strict=True):
        assert (mine.caption, mine.sha256, mine.original_size) == (
            other.caption,
            other.sha256,
            other.original_size,
        )
        assert mine.pixels.equal(other.pixels)
    assert [image.tobytes() for image in open_pictures(toys)] == [
        image.tobytes() for image in open_pictures(folder)
    ]


def test_the_summary_says_where_images_come_from(toys):
    (finding,) = read_folder(toys, 16).findings
    assert finding.what == kept.KEPT and "kind==bear" in finding.detail


def test_a_training_ends_in_the_same_bytes(settings, tmp_path):
    folder = sets.folder(tmp_path / "bears")
    rows = f"{sets.parquet(tmp_path / 'toys.parquet')},caption=words,kind==bear"
    results = [
        train(settings("content", tmp_path / name, content_dir=given, steps=2)).path.read_bytes()
        for name, given in (("of files", str(folder)), ("of rows", rows))
    ]
    assert results[0] == results[1]


def test_captions_can_be_left_alone(tmp_path):
    assert all(p.caption is None for p in read_folder(f"{sets.parquet(tmp_path / 'a.parquet')}", 16).pictures)
    tar = sets.webdataset(tmp_path / "a.tar")
    assert all(p.caption for p in read_folder(str(tar), 16).pictures)
    assert not any(p.caption for p in read_folder(f"{tar},caption=", 16).pictures)


def test_names_of_class_labels_filter_and_texts_of_an_imagefolder_are_missed_aloud(tmp_path):
    (tmp_path / "toys").mkdir()
    for kind in ("bear", "car"):
        sets.folder(tmp_path / "toys" / kind, sets.TOYS[:2])
    loaded = read_folder(f"{tmp_path / 'toys'}:train,label==car", 16)
    assert len(loaded.pictures) == 2
    assert [(f.what, f.detail) for f in loaded.findings][1:] == [(kept.TEXTS, "0.txt")]


def test_a_data_set_that_changes_is_read_again(tmp_path):
    path = sets.parquet(tmp_path / "toys.parquet")
    before = identity(str(path))
    sets.parquet(path, sets.BEARS[:1])
    assert len(before) == 4 and len(identity(str(path))) == 1


def test_rows_without_an_image_are_left_out_aloud(tmp_path):
    rows = [{"image": {"bytes": data, "path": None}} for data in (sets.TOYS[0].data, None)]
    loaded = read_folder(str(sets.table(tmp_path / "a.parquet", rows)), 16)
    assert len(loaded.pictures) == 1
    assert (kept.EMPTY, "row 1") in [(f.what, f.detail) for f in loaded.findings]


def bytes_only(data: bytes) -> dict:
    return {"image": {"bytes": data, "path": None}, "kind": "bear", "n": 3}


@pytest.mark.parametrize(
    ("options", "rows", "words"),
    [
        (",kind==dog", [bytes_only(sets.TOYS[0].data)], ("no row to use; kind is bear",)),
        (",colour==red", [bytes_only(sets.TOYS[0].data)], ("no column 'colour'", "image, kind, n")),
        (",image=kind", [bytes_only(sets.TOYS[0].data)], ("row 0", "not part of the data set: bear")),
        (",caption=n", [bytes_only(sets.TOYS[0].data)], ("row 0", "its n is no text", "caption=")),
        ("", [{"kind": "bear"}], ("no image column among kind", "image=COLUMN")),
        ("", [{"a": bytes_only(b"")["image"], "b": bytes_only(b"")["image"]}], ("image columns a, b",)),
        ("", [bytes_only(b"no image")], ("row 0", "not a JPEG")),
        ("", [bytes_only(sets.TOYS[0].data[:80])], ("row-000000000.png", "damaged")),
        ("", [bytes_only(None)], ("none of its 1 rows has an image",)),
        (":test", [bytes_only(sets.TOYS[0].data)], ("no data set that can be read", "train")),
    ],
)
def test_what_cannot_be_used_is_one_line_and_nothing_is_kept(options, rows, words, tmp_path, place):
    path = sets.table(tmp_path / "toys.parquet", rows)
    refused(lambda: read_folder(f"{path}{options}", 16), "toys", *words, limit=900)
    assert not [entry for entry in place.iterdir() if entry.name.startswith(".")]


def test_a_table_cannot_name_files_of_this_machine(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(sets.TOYS[0].data)
    path = sets.table(tmp_path / "toys.parquet", [{"image": {"bytes": None, "path": str(secret)}}])
    refused(lambda: read_folder(str(path), 16), "row 0", "not part of the data set", "secret.png")


def test_nothing_pickled_is_read(tmp_path):
    path = tmp_path / "toys.tar"
    bomb = tmp_path / "0.pth"
    bomb.write_bytes(b"\x80\x02not to be read")
    (tmp_path / "0.png").write_bytes(sets.TOYS[0].data)
    with tarfile.open(path, "w") as tar:
        tar.add(tmp_path / "0.png", "0.png")
        tar.add(bomb, "0.pth")
    assert len(read_folder(str(path), 16).pictures) == 1


def test_more_images_than_a_concept_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MOST", 3)
    path = sets.parquet(tmp_path / "toys.parquet")
    refused(lambda: read_folder(str(path), 16), "more than 3 images", "first=COUNT")
    assert len(read_folder(f"{path},first=2", 16).pictures) == 2


# The hub, without a network: HF_HUB_OFFLINE is set in all tests


def test_a_name_that_is_not_here_is_one_line():
    refused(
        lambda: read_folder("owner/toys:train", 16), "owner/toys:train", "hub cannot be reached", "online"
    )


def test_without_the_library_it_is_one_line(monkeypatch):
    monkeypatch.setattr("b4m.data.streaming.find_spec", lambda name: None)
    refused(lambda: read_folder("owner/toys:train", 16), 'pip install "b4m[datasets]"')


def test_a_data_set_in_the_librarys_own_cache_is_read_offline(tmp_path, monkeypatch):
    """As `load_dataset` leaves one there; the folder's name is the hub's."""
    cache = tmp_path / "cache"
    cache.mkdir()
    source = sets.imagefolder(cache / "downloads")  # what is no Parquet stays in files of its own
    datasets.load_dataset("imagefolder", data_dir=str(source), cache_dir=str(cache))
    (config,) = (cache / "imagefolder").iterdir()
    config.rename(config.with_name("default"))
    (cache / "imagefolder").rename(cache / "owner___toys")
    for info in cache.rglob("dataset_info.json"):
        info.write_text(json.dumps({**json.loads(info.read_text()), "dataset_name": "toys"}))
        for arrow in info.parent.glob("imagefolder-*.arrow"):
            arrow.rename(arrow.with_name(arrow.name.replace("imagefolder", "toys")))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.chdir(tmp_path / "cache")  # where no folder is called so
    assert len(read_folder("owner/toys:train,kind==bear", 16).pictures) == len(sets.BEARS)


def test_images_that_were_read_before_are_used_while_the_hub_is_away(tmp_path, monkeypatch, capsys):
    """A stand-in for the hub that is there once."""
    opened = datasets.load_dataset
    source = str(sets.parquet(tmp_path / "toys.parquet"))
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, revision, **more: opened("parquet", data_files=[source], **more),
    )
    first = identity("owner/toys:train")
    monkeypatch.setattr(datasets, "load_dataset", opened)
    kept._kept.cache_clear()  # another process
    assert identity("owner/toys:train") == first
    assert "hub cannot be reached" in capsys.readouterr().err
    refused(lambda: references("owner/toys:train,first=1"), "hub cannot be reached")


def test_an_image_of_another_name_is_known_by_its_bytes(tmp_path):
    rows = [{"image": {"bytes": stored(noise(16, 16), "JPEG"), "path": "a.png"}}]
    (file,) = references(str(sets.table(tmp_path / "a.parquet", rows))).glob("row-*")
    assert file.suffix == ".jpg"
