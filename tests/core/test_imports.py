"""The collector, while big libraries are imported."""

import gc
import sys

import pytest

from b4m.core.imports import importing


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_nothing_is_collected_meanwhile_and_what_came_is_left_alone(without_torch):
    frozen = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        came = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() > frozen + len(came)


def test_an_error_leaves_the_collector_at_work(without_torch):
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_nothing_is_done_where_the_libraries_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    frozen = gc.get_freeze_count()
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen  # what was frozen before may die meanwhile
