"""kill -9 while many vote: what was acknowledged is there, and the study goes on."""

import http.client
import os
import random
import re
import subprocess
import sys
import threading
import time

import pytest
from voting import Voter, a_study

import b4m
from b4m.apps.cli import main
from b4m.apps.vote.questions import VOTES, read_study
from b4m.apps.vote.store import Store

SERVER = """
import sys
from b4m.apps.vote import limits, server
server.Limit = lambda rate, burst: limits.Limit(1e9, 10**9)  # people are slower than this test
from b4m.apps.cli import main
sys.exit(main(["vote", "serve", sys.argv[1], "--port", "0"]))
"""


def start(folder) -> tuple[subprocess.Popen, int]:
    """A server of its own process, and its port."""
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(b4m.__file__))}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(folder)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = process.stdout.readline()
    found = re.search(r":(\d+)/", line)
    assert found, (line, process.stderr.read())
    return process, int(found[1])


class Crowd:
    """Voters in threads; who has been told that which question is answered."""

    def __init__(self, size: int) -> None:
        self.cookies = [""] * size
        self.acknowledged: list[tuple[str, str]] = []  # (cookie, question)
        self.odd: list[object] = []

    def vote(self, port: int, kill, after: int) -> None:
        """Vote until `after` more are acknowledged, then `kill`, in the middle of the others' votes."""
        goal = len(self.acknowledged) + after
        stop = threading.Event()

        def one(place: int) -> None:
            voter = Voter(port, self.cookies[place])
            try:
                if not voter.cookie:
                    voter.join()
                    self.cookies[place] = voter.cookie
                while not stop.is_set() and (question := voter.question()):
                    status = voter.vote(question, random.randrange(2))
                    if status == 303:
                        self.acknowledged.append((voter.cookie, question))
                    elif status != 409:  # stored just before an earlier kill, and never acknowledged
                        self.odd.append(status)
            except (OSError, http.client.HTTPException):
                pass  # the server is gone

        threads = [threading.Thread(target=one, args=(place,)) for place in range(len(self.cookies))]
        for thread in threads:
            thread.start()
        while len(self.acknowledged) < goal and any(thread.is_alive() for thread in threads):
            time.sleep(0.002)
        kill()
        stop.set()
        for thread in threads:
            thread.join()

    def check(self, folder) -> int:
        """Everything acknowledged is stored, once; the number of votes stored comes back."""
        store = Store(folder / VOTES, read_study(folder).key)
        stored = [(vote.voter, vote.question) for vote in store.votes()]
        told = [(store.voter(cookie.split("=")[1]), question) for cookie, question in self.acknowledged]
        store.close()
        assert not self.odd and len(set(told)) == len(told)
        assert set(told) <= set(stored) and len(set(stored)) == len(stored)
        return len(stored)


def killed(folder, crowd: Crowd, after: int) -> int:
    process, port = start(folder)
    crowd.vote(port, process.kill, after)
    process.wait()
    process.stdout.close()
    process.stderr.close()
    return crowd.check(folder)


def test_a_kill_loses_no_acknowledged_vote(tmp_path):
    folder = a_study(tmp_path)
    crowd = Crowd(12)
    assert killed(folder, crowd, 60) >= 60


@pytest.mark.slow
def test_twenty_kills_while_fifty_vote_lose_no_acknowledged_vote(tmp_path):
    folder = a_study(tmp_path)
    crowd = Crowd(50)
    for number in range(20):
        stored = killed(folder, crowd, 90)
        print(f"kill {number + 1}: {len(crowd.acknowledged)} acknowledged, {stored} stored")
    assert len(crowd.acknowledged) >= 1000


def test_a_second_server_on_one_study_is_refused(tmp_path, capsys):
    folder = a_study(tmp_path)
    from b4m.core.lock import exclusive

    with exclusive(folder):
        assert main(["vote", "serve", str(folder), "--port", "0"]) == 2
    assert "another run is at work" in capsys.readouterr().err
    assert not (folder / VOTES).exists()


def test_a_port_that_is_taken_and_a_server_that_is_not_installed_are_one_line(tmp_path, capsys, monkeypatch):
    import socket

    folder = a_study(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["vote", "serve", str(folder), "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen there" in capsys.readouterr().err and not (folder / VOTES).exists()
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["vote", "serve", str(folder)]) == 2
    assert "pip install 'b4m[vote]'" in capsys.readouterr().err
