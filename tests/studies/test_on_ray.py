"""A library on a real Ray cluster of two nodes, one of which goes in the middle of a training and another comes."""

import os
from collections import Counter
from dataclasses import replace

import psutil
import pytest
from conftest import refused
from libraries import at_work, made, two_by_two

from b4m.studies.library import library

pytestmark = pytest.mark.ray
ray = pytest.importorskip("ray")
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # nobody else is kept waiting


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    import b4m.studies.engines.on_ray as on_ray

    monkeypatch.setattr(on_ray, "LOOK", 0.1)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield made
    made.shutdown()


def is_on(node, process: int) -> bool:
    raylet = node.all_processes["raylet"][0].process.pid
    return raylet in [parent.pid for parent in psutil.Process(process).parents()]


def test_a_node_that_goes_in_mid_training_and_one_that_comes_leave_the_same_bytes(
    cluster, tiny_base, folders, tmp_path, monkeypatch
):
    from b4m.studies.engines.on_ray import OnRay

    for name in ("alone", "many"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    config = two_by_two(tmp_path, tiny_base, folders)
    library(config)
    monkeypatch.chdir(tmp_path / "many")
    second = cluster.add_node(num_cpus=1)
    begun, gone, begin, ended = Counter(), [], OnRay.begin, OnRay.ended

    def counting(self, number, job):
        begun[number] += 1
        begin(self, number, job)

    def removing(self, seconds):
        if not gone and (
            found := [process for process in at_work(tmp_path / "many") if is_on(second, process)]
        ):
            gone.extend(found)
            cluster.remove_node(second, allow_graceful=False)
            cluster.add_node(num_cpus=1)
        return ended(self, 0.02)

    monkeypatch.setattr(OnRay, "begin", counting)
    monkeypatch.setattr(OnRay, "ended", removing)
    page = library(replace(config, engine="ray", address=cluster.address))
    assert gone and sorted(begun.values()) == [1] * 7 + [2]
    assert page.exists() and made(tmp_path / "many") == made(tmp_path / "alone")
    begun.clear()
    library(replace(config, engine="ray", address=cluster.address))
    assert not begun


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
