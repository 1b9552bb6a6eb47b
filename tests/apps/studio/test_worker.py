"""The drawing process: one that dies is replaced, and none outlives its studio."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from conftest import refused

from b4m.apps.studio.worker import Worker


@pytest.fixture
def worker(project):
    made = Worker(project)
    yield made
    made.close()


def test_a_drawing_process_that_died_is_replaced(worker):
    first = worker.ask(os.getpid)
    refused(lambda: worker.ask(os._exit, 9), "ended without a word", "memory")
    assert worker.ask(os.getpid) not in (first, os.getpid())


def test_it_works_in_the_projects_folder(worker, project):
    assert worker.ask(os.getcwd) == str(project.folder)


def test_it_ends_with_a_studio_that_is_killed(project):
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from b4m.apps.studio.project import Base, Project\n"
        "from b4m.apps.studio.worker import Worker\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker(Project(Path(sys.argv[1]), Base()))\n"
        "    print(worker.ask(os.getpid), flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = project.folder / "main.py"
    path.write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    studio = subprocess.Popen(
        [sys.executable, path, project.folder], stdout=subprocess.PIPE, text=True, env=environment
    )
    drawing = int(studio.stdout.readline())
    studio.kill()
    studio.wait()
    end = time.monotonic() + 20
    while psutil.pid_exists(drawing) and psutil.Process(drawing).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end
        time.sleep(0.05)
