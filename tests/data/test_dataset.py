"""How a data set is spelled, and which rows of one are wanted."""

import pytest
from conftest import refused

from b4m.data.dataset import DataSet, called, first_of, parse


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("owner/toys:train", DataSet("owner/toys")),
        ("owner/toys@v2:test", DataSet("owner/toys@v2", "test")),
        ("toys.parquet", DataSet("toys.parquet")),
        ("a b/toys.TAR", DataSet("a b/toys.TAR")),
        (
            "toys.parquet:train,image=photo,caption=words,first=3,config=small,kind==bear,size==",
            DataSet("toys.parquet", "train", "photo", "words", 3, "small", (("kind", "bear"), ("size", ""))),
        ),
        ("toys:train,caption=,time==9:30", DataSet("toys", caption="", where=(("time", "9:30"),))),
        (r"C:\toys:train", DataSet(r"C:\toys")),
    ],
)
def test_a_spelling_says_all_of_a_data_set_and_reads_back(text, found):
    assert parse(text) == found and parse(str(found)) == found


@pytest.mark.parametrize("text", ["bears", "bears/0.png", "owner/toys", r"C:\toys", "a:b/c", ""])
def test_a_path_without_a_split_is_a_path(text):
    assert parse(text) is None and first_of(text, 3) is None


def test_what_is_there_is_a_path_whatever_its_name(tmp_path):
    (tmp_path / "bears:train").mkdir()
    (tmp_path / "bears:old.png").touch()
    assert parse(str(tmp_path / "bears:train")) is None and parse(str(tmp_path / "bears:old.png")) is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("toys:train,colour=red", ("'colour=red'", "COLUMN==VALUE")),
        ("toys:train,first=0", ("first=0", "first=5")),
        ("toys:train,first=-1", ("first=-1", "first=5")),
    ],
)
def test_an_option_that_is_none_is_refused(text, words):
    refused(lambda: parse(text), text, *words)


def test_a_data_set_is_called_by_what_its_rows_have_in_common():
    assert called("owner/toys:train,size==big,kind==teddy bear") == "teddy bear"
    assert called("data/toys.parquet") == called("owner/toys@v2:train") == "toys"
    assert called("data/toys") == "toys"


def test_the_first_images_of_a_data_set_are_a_data_set():
    assert first_of("toys:train,kind==bear", 2) == "toys:train,first=2,kind==bear"
    assert first_of("toys:train,first=1", 2) == "toys:train,first=1"
