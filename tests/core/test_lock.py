"""Two runs never write to one folder; a lock goes with its process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from b4m.core.errors import Busy, UserError
from b4m.core.lock import exclusive

HOLDER = """
import sys, time, pathlib
from b4m.core.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1])):
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path / "run"."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")])
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "owner.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def test_the_second_run_is_refused_with_the_first_ones_number(holder, tmp_path):
    with pytest.raises(Busy, match=f"process {holder.pid} on .* since 20"), exclusive(tmp_path / "run"):
        pass


def test_a_killed_run_leaves_no_lock_behind(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "run" / "owner.json").exists()  # what it signed still lies there
    with exclusive(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / "owner.json").read_text()


def test_a_folder_that_was_not_there_and_got_nothing_is_not_there_after(tmp_path):
    with pytest.raises(UserError), exclusive(tmp_path / "new"):
        raise UserError("bad input")
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with exclusive(tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


def test_the_lock_is_free_after_use_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError), exclusive(tmp_path / "run"):
            (tmp_path / "run" / "log").write_text("")
            raise ValueError
    assert not (tmp_path / "run" / "owner.json").exists()
