"""How long voters wait: a crowd that clicks at once, again and again, at a server of its own process.

    python benchmarks/vote.py outputs/vote --voters 50 --rounds 20 --within 1

Each round, every voter, in the same instant or within so many seconds, sends a vote (timed until it is acknowledged:
it is on the disk then), then fetches the next page and, as a browser would, those of its images that it has not seen.
The votes go into a copy of the study.
"""

import argparse
import http.client
import json
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

PAUSE = 1.0  # seconds between rounds


class Voter:
    """One browser with one connection kept open, and what it waited for."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.host, self.cookie = f"127.0.0.1:{port}", ""
        self.seen: set[str] = set()
        self.waited: list[tuple[str, float]] = []

    def ask(self, what: str, method: str, path: str, **form: str) -> str:
        headers = {"Cookie": self.cookie, "Origin": f"http://{self.host}"}
        if form:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        started = time.perf_counter()
        self.connection.request(method, path, urlencode(form) or None, headers)
        answer = self.connection.getresponse()
        text = answer.read().decode("latin-1")
        self.waited.append((what, time.perf_counter() - started))
        if answer.status not in (200, 303):
            raise SystemExit(f"{method} {path}: status {answer.status}")
        if cookie := answer.getheader("set-cookie"):
            self.cookie = cookie.split(";")[0]
        return text

    def go(self, rounds: int, together: threading.Barrier, within: float) -> None:
        together.wait()
        time.sleep(random.uniform(0, within))
        self.ask("join", "POST", "/join", consent="yes")
        page = self.page()
        for _ in range(rounds):
            together.wait()
            time.sleep(random.uniform(0, within))
            question = re.search(r'name="question" value="(\w+)"', page)
            if question is None:
                raise SystemExit("the study has fewer questions than rounds; give fewer --rounds")
            self.ask("vote", "POST", "/vote", question=question[1], choice="0")
            page = self.page()
            time.sleep(PAUSE)

    def page(self) -> str:
        text = self.ask("page", "GET", "/")
        for path in re.findall(r'src="(/image/\w+)"', text):
            if path not in self.seen:
                self.seen.add(path)
                self.ask("image", "GET", path)
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--voters", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--within", type=float, default=0.0, help="seconds over which their clicks are spread"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "study"
        copy.mkdir()
        shutil.copy(given.study / "vote.json", copy)
        shutil.copytree(given.study / "images", copy / "images")
        command = [sys.executable, "-m", "b4m", "vote", "serve", str(copy), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            found = re.search(r":(\d+)/", server.stdout.readline())
            waited = crowd(int(found[1]), given.voters, given.rounds, given.within)
        finally:
            server.terminate()
            server.wait()
    asked = {"voters": given.voters, "rounds": given.rounds, "within_seconds": given.within}
    print(json.dumps({**asked, **table(waited)}, indent=1))


def crowd(port: int, size: int, rounds: int, within: float) -> list[tuple[str, float]]:
    voters = [Voter(port) for _ in range(size)]
    together = threading.Barrier(size)
    threads = [threading.Thread(target=voter.go, args=(rounds, together, within)) for voter in voters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [one for voter in voters for one in voter.waited]


def table(waited: list[tuple[str, float]]) -> dict[str, dict[str, float]]:
    """Milliseconds by kind of request: median, 95th percentile, longest."""
    found = {}
    for what in dict.fromkeys(name for name, _ in waited):
        times = sorted(1000 * seconds for name, seconds in waited if name == what)
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        found[what] = {
            "requests": len(times),
            "median": round(cuts[49], 1),
            "p95": round(cuts[94], 1),
            "max": round(times[-1], 1),
        }
    return found


if __name__ == "__main__":
    main()
