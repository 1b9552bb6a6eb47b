"""The collector, while big libraries are imported."""

import gc
import sys

import pytest

from b4m.core.imports import importing


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_came_is_left_alone(without_torch):
    assert gc.get_freeze_count() == 0
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 1000


def test_an_error_leaves_the_collector_at_work(without_torch):
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


def test_nothing_is_done_where_the_libraries_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    with importing():
        assert gc.isenabled()
    assert gc.get_freeze_count() == 0
