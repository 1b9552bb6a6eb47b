"""Trainings as processes of their own, told apart by what they leave. The process here is a small stand-in."""

import json
import os
import signal
import sys
import time

import pytest
from conftest import refused
from safetensors.numpy import save_file

from b4m.apps.studio import jobs, library
from b4m.apps.studio.runner import Runner

# Writes steps as a training does, until it is told to stop.
STAND_IN = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1]); (folder / "state").mkdir(parents=True, exist_ok=True)
told = []
signal.signal(signal.SIGINT, lambda *_: told.append(1))
(folder / "pictures.json").write_text("[]")
if sys.argv[2] == "refuse": print("b4m: error: " + str(folder.absolute()) + "/x.png: damaged"); sys.exit(2)
for step in range(1, 1000):
    with (folder / "log.jsonl").open("a") as log: log.write(json.dumps({"step": step, "loss": 1 / step}) + "\\n")
    time.sleep(0.01)
    if told: print("stopped; the same command continues"); sys.exit(130)
"""


@pytest.fixture
def queue(project, monkeypatch):
    """Puts a concept's stand-in into the queue: queue(mode) -> its identifier."""
    monkeypatch.setattr(jobs, "PROGRAM", (sys.executable, "-c", STAND_IN))
    monkeypatch.setattr(jobs, "_check_arguments", lambda *_: None)
    started = []

    def put(mode: str = "run") -> str:
        concept = library.create(project, "content", "Bear")
        folder = project.relative(project.concept(concept.ident))
        jobs.put(project, concept.ident, (f"{folder}/training", mode), 1000)
        started.append(concept.ident)
        return concept.ident

    yield put
    for ident in started:
        job = jobs.load(project, ident)
        if job.process and jobs.look(project, job).state == "running":
            os.kill(job.process, signal.SIGKILL)


def wait_for(project, ident, wanted, seconds=20):
    end = time.monotonic() + seconds
    while (seen := jobs.look(project, jobs.load(project, ident))).state != wanted and time.monotonic() < end:
        time.sleep(0.02)
    assert seen.state == wanted, seen
    return seen


def wait_for_steps(project, ident, seconds=20):
    end = time.monotonic() + seconds
    while not jobs.look(project, jobs.load(project, ident)).step and time.monotonic() < end:
        time.sleep(0.02)


def test_one_runs_and_the_next_one_waits_for_it(project, queue):
    runner, first, second = Runner(project), queue(), queue()
    runner.turn()
    runner.turn()
    wait_for_steps(project, first)
    wait_for(project, second, "queued")
    runner.stop(first)
    seen = wait_for(project, first, "stopped")
    assert seen.may_continue and seen.losses[0] == 1.0
    runner.turn()
    wait_for(project, second, "running")


def test_a_restarted_studio_finds_what_runs_and_continues_what_stopped(project, queue, monkeypatch):
    ident = queue()
    Runner(project).turn()
    monkeypatch.setattr(jobs, "_children", {})  # as a new studio, whose children they are not
    wait_for(project, ident, "running")
    Runner(project).stop(ident)
    wait_for(project, ident, "stopped")
    again = Runner(project)
    again.go_on(ident)
    again.turn()
    wait_for(project, ident, "running")
    refused(lambda: again.go_on(ident), "not one that can be continued")


def test_it_outlives_the_studio_in_a_session_of_its_own(project, queue):
    ident = queue()
    Runner(project).turn()
    wait_for(project, ident, "running")
    assert os.getsid(jobs.load(project, ident).process) != os.getsid(0)


def test_a_killed_one_is_named_and_another_process_of_its_number_is_not_it(project, queue):
    ident = queue()
    Runner(project).turn()
    wait_for(project, ident, "running")
    job = jobs.load(project, ident)
    values = {**json.loads((project.concept(ident) / "job.json").read_text()), "process_started": 1.0}
    (project.concept(ident) / "job.json").write_text(json.dumps(values))
    assert jobs.look(project, jobs.load(project, ident)).state == "crashed"  # the number went to another
    os.kill(job.process, signal.SIGKILL)
    seen = wait_for(project, ident, "crashed")
    assert "ended without a word" in seen.message and seen.may_continue


def test_a_refusal_is_shown_without_the_paths_of_the_machine(project, queue):
    ident = queue("refuse")
    Runner(project).turn()
    seen = wait_for(project, ident, "failed")
    assert seen.message == f"concepts/{ident}/training/x.png: damaged"


def test_one_that_hangs_is_named(project, queue, monkeypatch):
    ident = queue()
    Runner(project).turn()
    wait_for_steps(project, ident)
    os.kill(jobs.load(project, ident).process, signal.SIGSTOP)
    monkeypatch.setattr(jobs, "STALE", 0.0)
    time.sleep(0.6)
    seen = jobs.look(project, jobs.load(project, ident))
    assert seen.state == "running" and "may hang" in seen.message


def test_done_is_a_result_with_all_its_steps(project, queue):
    ident = queue("refuse")
    Runner(project).turn()
    wait_for(project, ident, "failed")
    path = library.file_of(project, library.get(project, ident))
    import numpy

    save_file({"x": numpy.zeros(1)}, path, {"b4m.steps": "10"})  # of a shorter run
    assert jobs.look(project, jobs.load(project, ident)).state == "failed"
    save_file({"x": numpy.zeros(1)}, path, {"b4m.steps": "1000"})
    assert jobs.look(project, jobs.load(project, ident)).state == "done"


def test_what_waits_can_be_taken_out(project, queue):
    ident = queue()
    jobs.stop(project, ident)
    Runner(project).turn()
    assert jobs.look(project, jobs.load(project, ident)).state == "stopped"


@pytest.mark.parametrize(
    "given",
    [
        ["export", "--output-dir", "FOLDER/training"],
        ["train-content", "--output-dir", "/home"],
        ["train-content", "--output-dir", "FOLDER/training", "--output-dir", "/home"],
        ["train-content", "--output-dir", "FOLDER/training", "--content-dir", "/home/ann"],
        ["train-content", "--output-dir", "FOLDER/training", "--partner-dirs", "a", "../../x"],
        ["train-content", "--output-dir", "FOLDER/training", "--config", "x.yaml"],
        ["train-content"],
    ],
)
def test_a_strangers_queue_runs_nothing_but_trainings_in_the_project(project, given):
    concept = library.create(project, "content", "Bear")
    folder = project.relative(project.concept(concept.ident))
    jobs.put(project, concept.ident, [word.replace("FOLDER", folder) for word in given], 5)
    refused(lambda: jobs.load(project, concept.ident), "damaged")
    assert jobs.jobs(project) == []


def test_a_line_that_is_being_written_is_left_for_the_next_look(project, queue):
    ident = queue()
    folder = project.concept(ident) / "training"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert jobs.look(project, jobs.load(project, ident)).step == 1
