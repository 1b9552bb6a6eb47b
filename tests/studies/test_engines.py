"""Workers on this machine: the same bytes as one process, also where one of them is killed."""

import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
from libraries import at_work, made, two_by_two

from b4m.studies.engines.local import Processes
from b4m.studies.library import library


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
