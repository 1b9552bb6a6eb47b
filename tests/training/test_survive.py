"""Faults from outside: killed, stopped, a full disk, two processes; each time the next run ends in the same bits."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import SIZE
from PIL import Image

from b4m.files.concept import load_concept
from b4m.training.state import load_state


class Life:
    """One run of the program in processes of its own."""

    def __init__(self, nursery: "Nursery", pids: list[int], out: Path) -> None:
        self.nursery, self.pids, self.out = nursery, pids, out

    def signal(self, number: int, rank: int | None = None) -> None:
        for pid in self.pids if rank is None else [self.pids[rank]]:
            os.kill(pid, number)

    def end(self) -> list[int]:
        """The exit statuses, once all processes have ended."""
        self.nursery.process.stdin.write("end\n")
        self.nursery.process.stdin.flush()
        return json.loads(self.nursery.process.stdout.readline())


class Nursery:
    """Forks a new run in no time, see nursery.py."""

    def __init__(self, base: str) -> None:
        program = Path(__file__).with_name("nursery.py")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, str(program), base],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert self.process.stdout.readline() == "ready\n"

    def run(self, flags: list[str], out: Path, **order) -> Life:
        self.process.stdin.write(json.dumps({"flags": flags, "out": str(out), **order}) + "\n")
        self.process.stdin.flush()
        return Life(self, json.loads(self.process.stdout.readline()), out)


@pytest.fixture(scope="module")
def nursery(tiny_base):
    made = Nursery(tiny_base)
    yield made
    made.process.stdin.close()
    made.process.wait(60)


@pytest.fixture
def flags(tiny_base, folders):
    """Flags of a content training with a state after every step."""

    def make(folder, steps, **more) -> list[str]:
        given = {
            "--base-model": [tiny_base],
            "--preset": ["embedded"],
            "--resolution": [str(SIZE)],
            "--rank": ["4"],
            "--content-dir": [folders["content"]],
            "--partner-dirs": folders["styles"],
            "--output-dir": [str(folder)],
            "--steps": [str(steps)],
            "--checkpoint-every": ["1"],
            **{"--" + name.replace("_", "-"): [str(value)] for name, value in more.items()},
        }
        return ["train-content", *(word for flag, values in given.items() for word in (flag, *values))]

    return make


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


def same(one: Path, two: Path) -> None:
    """Result, log and last state, to the bit."""
    for name in ("content.safetensors", "log.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    last = sorted((one / "state").iterdir())[-1].name
    assert (one / "state" / last / "tensors.safetensors").read_bytes() == (
        two / "state" / last / "tensors.safetensors"
    ).read_bytes()
    for folder in (one, two):
        assert not [path for path in folder.rglob(".b4m-partial-*")]


def killed_again_and_again(nursery, flags, tmp_path, kills: int, steps: int, seed: int) -> dict[str, int]:
    """Kill -9 at random moments, every second one while a state is being written; then let it end."""
    started = time.time()
    assert nursery.run(flags(tmp_path / "whole", steps), tmp_path / "whole.out").end() == [0]
    ready = (tmp_path / "whole/pictures.json").stat().st_mtime - started
    step = (time.time() - started - ready) / steps
    moments, folder, out = random.Random(seed), tmp_path / "parts", tmp_path / "parts.out"
    counts = {"killed": 0, "while writing a state": 0, "before the first state": 0}
    for number in range(kills):
        left = set(folder.glob("state/.b4m-partial-*"))  # by those before, which the next save clears away
        life = nursery.run(flags(folder, steps), out)
        time.sleep(moments.uniform(0, ready + 3 * step))
        if number % 2:
            deadline = time.monotonic() + 20 * step + 2
            while not set(folder.glob("state/.b4m-partial-*")) - left and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(moments.uniform(0, 0.004))
        life.signal(signal.SIGKILL)
        (status,) = life.end()
        counts["killed"] += status == -signal.SIGKILL
        counts["while writing a state"] += bool(set(folder.glob("state/.b4m-partial-*")) - left)
        counts["before the first state"] += not list(folder.glob("state/step-*"))
    assert nursery.run(flags(folder, steps), out).end() == [0]
    assert "Traceback" not in out.read_text() and "damaged" not in out.read_text()
    same(tmp_path / "whole", folder)
    return counts


def test_killed_at_random_moments(nursery, flags, tmp_path):
    counts = killed_again_and_again(nursery, flags, tmp_path, kills=3, steps=8, seed=1)
    assert counts["killed"] >= 1, counts


@pytest.mark.slow
def test_killed_at_fifty_random_moments(nursery, flags, tmp_path):
    counts = killed_again_and_again(nursery, flags, tmp_path, kills=50, steps=120, seed=2)
    print(counts)
    assert counts["killed"] == 50 and counts["while writing a state"] >= 10, counts


def test_ctrl_c_and_sigterm_finish_the_step_and_the_next_run_continues(nursery, flags, tmp_path):
    """Two interruptions of one run: 130, then 143, then the end that a straight run has."""
    assert nursery.run(flags(tmp_path / "whole", 4), tmp_path / "whole.out").end() == [0]
    command, out = flags(tmp_path / "parts", 4, checkpoint_every=0), tmp_path / "parts.out"
    for taken, number in ((1, signal.SIGINT), (2, signal.SIGTERM)):
        sign = tmp_path / f"sign{taken}"
        life = nursery.run(command, out, fault={"slow": [taken - 1, 0.3, str(sign)]})
        wait_for(sign)
        life.signal(number)
        assert life.end() == [128 + number]
        assert load_state(tmp_path / "parts/state")[0] == taken
        assert f"stopped after step {taken} of 4" in out.read_text()
    assert nursery.run(command, out).end() == [0]
    assert "Traceback" not in out.read_text()
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_and_the_same_one_twice_does_not(nursery, flags, tmp_path, number):
    command, sign = flags(tmp_path / "run", 3), tmp_path / "sign"
    life = nursery.run(command, tmp_path / "out", fault={"slow": [1, 60, str(sign)]})
    wait_for(sign)
    life.signal(number)
    time.sleep(0.1)
    life.signal(number)  # a terminal and a launcher pass on the same one
    time.sleep(1)
    assert psutil.Process(life.pids[0]).status() != psutil.STATUS_ZOMBIE  # still at its step
    life.signal(number)
    assert life.end() == [128 + number]
    assert load_state(tmp_path / "run/state")[0] == 1
    assert "finishing this step" in (tmp_path / "out").read_text()


def test_a_disk_that_fills_up_leaves_the_state_before_it(nursery, flags, tmp_path):
    """A real limit on file sizes: the kernel refuses in the middle of a write."""
    assert nursery.run(flags(tmp_path / "whole", 3), tmp_path / "whole.out").end() == [0]
    command, out = flags(tmp_path / "run", 3), tmp_path / "out"
    assert nursery.run(command, out, fault={"full": [1, 5000]}).end() == [2]
    last = out.read_text().splitlines()[-1]
    assert last.startswith("b4m: error: ") and "step-000002" in last and "free space" in last
    assert load_state(tmp_path / "run/state")[0] == 1 and not (tmp_path / "run/content.safetensors").exists()
    assert nursery.run(command, out).end() == [0]
    assert "Traceback" not in out.read_text()
    same(tmp_path / "whole", tmp_path / "run")


def test_a_result_that_cannot_be_replaced_stays(nursery, flags, tmp_path):
    """A finished run is prolonged, and the disk is full at its end: the earlier result is as it was."""
    out = tmp_path / "out"
    assert nursery.run(flags(tmp_path / "run", 1), out).end() == [0]
    before = (tmp_path / "run/content.safetensors").read_bytes()
    assert nursery.run(flags(tmp_path / "run", 2), out, fault={"full": [1, 5000]}).end() == [2]
    assert (tmp_path / "run/content.safetensors").read_bytes() == before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_stop_together_and_continue_to_the_same_bits(nursery, flags, tmp_path):
    """One of them is told; both finish the step. A single process may not go on with what two have begun."""
    pair = {"processes": 2}
    whole, parts, out = tmp_path / "whole", tmp_path / "parts", tmp_path / "out"
    assert nursery.run(flags(whole, 3), out, port=free_port(), **pair).end() == [0, 0]
    command, sign = flags(parts, 3, checkpoint_every=0), tmp_path / "sign"
    life = nursery.run(command, out, port=free_port(), fault={"slow": [1, 0.3, str(sign)]}, **pair)
    wait_for(sign)
    life.signal(signal.SIGTERM, rank=1)
    assert life.end() == [143, 143]
    assert load_state(parts / "state")[0] == 2
    assert nursery.run(command, out).end() == [2]
    assert "has processes 2, now it is 1" in out.read_text().splitlines()[-1]
    assert nursery.run(command, out, port=free_port(), **pair).end() == [0, 0]
    same(whole, parts)


def test_a_model_spread_over_two_processes_trains_the_same_thing_and_each_holds_half(
    nursery, flags, tmp_path
):
    """A run of whole models goes on with shares of one, recomputing then; both help to draw the same previews."""
    pair, out, shared = {"processes": 2}, tmp_path / "out", tmp_path / "shared"
    steady = {"lr_schedule": "constant", "preview_every": 2}
    command = flags(tmp_path / "whole", 4, **steady)
    assert nursery.run(command, out, port=free_port(), **pair).end() == [0, 0]
    order = {"port": free_port(), "fault": {"weighs": [str(tmp_path / "weight")]}}
    assert nursery.run(flags(shared, 1, **steady), out, port=free_port(), **pair).end() == [0, 0]
    command = [*flags(shared, 3, **steady), "--shard"]
    assert nursery.run(command, out, **order, **pair).end() == [0, 0], out.read_text()
    for rank in range(2):
        held, all_of_them = json.loads((tmp_path / f"weight{rank}").read_text())
        assert 0.49 * all_of_them < held < 0.51 * all_of_them
    command = [*flags(shared, 4, **steady), "--shard", "--gradient-checkpointing"]
    assert nursery.run(command, out, port=free_port(), **pair).end() == [0, 0], out.read_text()
    ours, theirs = (load_concept(folder / "content.safetensors") for folder in (shared, tmp_path / "whole"))
    assert ours.unet_hash == theirs.unet_hash
    for layer, factor in theirs.tensors.items():
        assert (ours.tensors[layer] - factor).abs().max() <= 1e-6
    assert max(factor.abs().max() for factor in theirs.tensors.values()) > 1e-4, "it moved"
    for name in ("step-000002.png", "step-000004.png"):
        drawn, expected = (
            np.asarray(Image.open(folder / "previews" / name), dtype=int)
            for folder in (shared, tmp_path / "whole")
        )
        assert np.abs(drawn - expected).max() <= 1


def test_a_model_cannot_be_spread_over_one_process(nursery, flags, tmp_path):
    out = tmp_path / "out"
    assert nursery.run([*flags(tmp_path / "run", 3), "--shard"], out).end() == [2]
    assert (
        "--shard spreads the model over processes, and this run has one" in out.read_text().splitlines()[-1]
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("rank", "more"), [(0, []), (1, []), (1, ["--shard"])])
def test_a_process_that_fails_ends_the_others_and_the_run_continues_to_the_same_bits(
    nursery, flags, tmp_path, rank, more
):
    pair = {"processes": 2}
    whole, parts, out = tmp_path / "whole", tmp_path / "parts", tmp_path / "out"
    assert nursery.run([*flags(whole, 3), *more], out, port=free_port(), **pair).end() == [0, 0]
    command, fault = [*flags(parts, 3), *more], {"breaks": [2, rank]}
    life = nursery.run(command, tmp_path / "log", port=free_port(), fault=fault, **pair)
    statuses = life.end()
    assert all(status > 0 for status in statuses), statuses
    logs = [(tmp_path / name).read_text() for name in ("log", "log1")]
    assert "the card has gone" in logs[rank]
    assert logs[1 - rank].splitlines()[-1].startswith("b4m: error: another process of this run has ended")
    assert load_state(parts / "state")[0] == 2
    assert nursery.run(command, out, port=free_port(), **pair).end() == [0, 0]
    same(whole, parts)
