"""A library on a real Ray cluster of two nodes, one of which goes in the middle of a training and another comes."""

import os
from collections import Counter
from dataclasses import replace

import psutil
import pytest
from conftest import refused
from libraries import at_work, made, two_by_two, written

from b4m.core.lock import exclusive
from b4m.studies.library import library
from b4m.studies.plan import Names
from b4m.studies.tasks import label

WORLD = "examples/references"
pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray")
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # nobody else is kept waiting


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    import b4m.studies.engines.on_ray as on_ray

    monkeypatch.setattr(on_ray, "LOOK", 0.1)
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield started
    started.shutdown()


def is_on(node, process: int) -> bool:
    raylet = node.all_processes["raylet"][0].process.pid
    return raylet in [parent.pid for parent in psutil.Process(process).parents()]


@pytest.fixture
def watched(cluster, monkeypatch):
    """watched(config, folder, node): the library on the cluster, from `folder`; -> how often each job was begun.

    node, if any, is removed when a training on it has saved a state, and another one added.
    """
    from b4m.studies.engines.on_ray import OnRay

    begin, ended = OnRay.begin, OnRay.ended

    def run(config, folder, node=None):
        begun, leaving = Counter(), [node] if node else []

        def counting(self, number, job):
            begun[label(job)] += 1
            begin(self, number, job)

        def removing(self, seconds):
            if leaving and any(is_on(leaving[0], process) for process in at_work(folder)):
                cluster.remove_node(leaving.pop(), allow_graceful=False)
                cluster.add_node(num_cpus=1)
            return ended(self, 0.02)

        monkeypatch.setattr(OnRay, "begin", counting)
        monkeypatch.setattr(OnRay, "ended", removing)
        monkeypatch.chdir(folder)
        assert library(replace(config, engine="ray", address=cluster.address)).exists() and not leaving
        return begun

    return run


def test_a_node_that_goes_in_mid_training_and_one_that_comes_leave_the_same_bytes(
    cluster, watched, tiny_base, folders, tmp_path, monkeypatch
):
    for name in ("alone", "many"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    config = two_by_two(tmp_path, tiny_base, folders)
    library(config)
    begun = watched(config, tmp_path / "many", cluster.add_node(num_cpus=1))
    assert sorted(begun.values()) == [1] * 7 + [2]
    assert made(tmp_path / "many") == made(tmp_path / "alone")
    assert not watched(config, tmp_path / "many")


def test_six_by_six_of_the_drawn_world_then_a_seventh_style(cluster, watched, tmp_path, monkeypatch):
    """With so few steps that nothing is learned: it is the bytes that count. Minutes on one core."""
    for name in ("alone", "many"):
        (tmp_path / name).mkdir()
    seven = [f"{WORLD}/style/{name}" for name in ("papercut", "sketch", "watercolour", "yarn")]
    seven += [f"{WORLD}/partners/styles/{name}.png" for name in ("cartoon", "clay", "pixel")]
    contents = [f"{WORLD}/content/{name}" for name in ("bear", "car", "fish", "teapot")]
    contents += [f"{WORLD}/partners/contents/{name}.png" for name in ("dog", "boat")]
    small = {
        "contents": contents,
        "partner_styles": [f"{WORLD}/partners/styles/sticker.png"],
        "partner_contents": [f"{WORLD}/partners/contents/cake.png"],
        "settings": {"checkpoint_every": 1},
        "train": {"steps": 8, "rank": 8, "target_rows": 1},
        "generate": {"steps": 2},
        "dials": {"both": [1, 1]},
    }
    six, more = (written(tmp_path / f"{n}", **small, styles=seven[:n]) for n in (6, 7))
    monkeypatch.chdir(tmp_path / "alone")
    library(six)
    begun = watched(six, tmp_path / "many", cluster.add_node(num_cpus=1))
    assert sorted(begun.values()) == [1] * (6 + 6 + 36 - 1) + [2]
    assert made(tmp_path / "many") == made(tmp_path / "alone")
    begun = watched(more, tmp_path / "many")
    assert sorted(begun.values()) == [1] * (1 + 6)


def test_a_mistake_on_a_node_is_one_line_here(cluster, tiny_base, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = two_by_two(tmp_path, tiny_base, folders, train={"rank": 4, "steps": 1, "lr": 1000})
    config = replace(config, engine="ray", address=cluster.address)
    refused(lambda: library(replace(config, gpus=0.5)), "--gpus 0.5", "no GPU")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trained").write_text("")
    refused(lambda: library(config), "trained", "folder")


def test_where_no_cluster_is_one_line_says_how_to_start_one(tiny_base, folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = two_by_two(tmp_path, tiny_base, folders)
    refused(lambda: library(replace(config, engine="ray")), "--address auto", "ray start --head")


def test_a_node_that_does_not_share_the_folder_or_its_locks_is_not_given_work(tmp_path, monkeypatch):
    from b4m.studies.engines.on_ray import Far

    monkeypatch.chdir(tmp_path)
    far, probe = Far(Names()), tmp_path / "out" / "probe"
    assert "cannot go to" in far.ready(str(tmp_path / "none"), probe)
    assert "does not see" in far.ready(str(tmp_path), probe)
    with exclusive(probe):
        (probe / "kept").write_text("")
        assert far.ready(str(tmp_path), probe) is None
    (probe / "owner.json").write_text("{}")
    assert "no locks between machines" in far.ready(str(tmp_path), probe)
