"""Workers on this machine: the same bytes as one process, also where one of them is killed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
from conftest import refused
from libraries import at_work, made, two_by_two

from b4m.core.errors import UserError
from b4m.studies.doing import Outcome, Worker
from b4m.studies.engines.local import Processes, _Process, done_by
from b4m.studies.library import library
from b4m.studies.plan import Names


@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_what_one_process_makes(
    tiny_base, folders, tmp_path, monkeypatch
):
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    config = two_by_two(tmp_path, tiny_base, folders)
    library(config)
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "two")
    begun, killed, begin, ended = Counter(), [], Processes.begin, Processes.ended

    def counting(self, number, job):
        begun[number] += 1
        begin(self, number, job)

    def killing(self, seconds):
        if not killed and (found := at_work(tmp_path / "two")):
            killed.append(found.pop())
            os.kill(killed[0], signal.SIGKILL)
        return ended(self, 0.02)

    monkeypatch.setattr(Processes, "begin", counting)
    monkeypatch.setattr(Processes, "ended", killing)
    library(replace(config, workers=2))
    assert sorted(begun.values()) == [1] * 7 + [2] and killed
    assert made(tmp_path / "two") == made(tmp_path / "alone")


def test_without_ray_it_says_what_to_install_before_anything_is_trained(
    tiny_base, folders, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    config = replace(two_by_two(tmp_path, tiny_base, folders), engine="ray")
    refused(lambda: library(config), "pip install 'b4m[ray]'")
    assert not Path("out").exists()


def test_a_mistake_in_a_workers_process_is_a_line_here(tmp_path):
    """A worker without its process: what goes through the pipe."""

    class Fails(Worker):
        def do(self, job):
            raise UserError("x.png: not an image")

    ours, theirs = Pipe()
    worker = _Process.__new__(_Process)
    worker.pipe = ours
    theirs.send(done_by(Fails(Names()), ()))
    refused(worker.said, "x.png: not an image")
    theirs.send(Outcome.BUSY)
    assert worker.said() is Outcome.BUSY
    theirs.close()
    assert worker.said() is Outcome.LOST


@pytest.mark.slow
def test_told_to_stop_the_workers_save_their_trainings_and_are_gone(tiny_base, folders, tmp_path):
    config = two_by_two(tmp_path, tiny_base, folders, train={"rank": 4, "steps": 100_000})
    command = [sys.executable, "-m", "b4m", "library", config.build, "--output-dir", "out", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path)
    while len(found := at_work(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert not any(psutil.pid_exists(each) for each in found)
    printed = [path.read_text() for path in (tmp_path / "out" / "logs").glob("*.log")]
    assert len(printed) == 2 and all("the same command continues" in text for text in printed)
