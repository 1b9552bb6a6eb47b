"""The planner: what can be begun, in which order, what is put back, what a lost worker means."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from conftest import refused

import b4m.studies.engines.drive as drive
from b4m.studies.doing import Outcome
from b4m.studies.engines.board import Board
from b4m.studies.file import Study
from b4m.studies.plan import Plan, Training
from b4m.studies.tasks import Task, label, work_list


def test_a_task_waits_for_all_that_it_needs_and_the_most_wanted_goes_first():
    board = Board([(), (), (0, 1), ()])
    assert [board.take(0), board.take(0), board.take(0), board.take(0)] == [0, 1, 3, None]
    board.finish(1)
    assert board.take(0) is None
    board.finish(0)
    assert board.take(0) == 2 and board.left == 2


def test_what_was_put_back_comes_again_when_it_is_time():
    board = Board([(), (0,)])
    board.put_back(board.take(0), when=5)
    assert board.take(4.9) is None and board.take(5) == 0
    board.finish(0)
    assert board.take(5) == 1


def plan(root: Path, contents: int = 3, styles: int = 3, method: str = "composed") -> Plan:
    """Of folders that are not there: the planner of a study does not look."""
    return Plan(
        Study(
            title="try",
            rows={
                "both": {"method": method},
                "more style": {"method": method, "generate": {"content_strength": 0.7}},
            },
            contents=[f"contents/c{i}" for i in range(contents)],
            styles=[f"styles/s{i}" for i in range(styles)],
            partner_styles=["chalk"],
            partner_contents=["car"],
            prompts=["a {content} in {style} style"],
        ),
        root,
    )


def shown(task: Task) -> str:
    if isinstance(task.job, Training):
        return task.job.config.stage
    return f"{Path(task.job[0].content).name} {Path(task.job[0].style).name}"


def test_the_first_pairs_come_first_and_the_table_grows_as_a_square(tmp_path):
    tasks = work_list(plan(tmp_path))
    assert [shown(task) for task in tasks[:9]] == [
        *("content", "style", "c0 s0", "content", "c1 s0", "style", "c0 s1", "c1 s1", "content"),
    ]
    assert len(tasks) == 3 + 3 + 9 and all(
        need < number for number, task in enumerate(tasks) for need in task.needs
    )
    assert len({label(task.job) for task in tasks}) == len(tasks)


def test_a_second_stage_waits_for_its_two_files_and_a_pair_for_its_second_stage(tmp_path):
    tasks = work_list(plan(tmp_path, 1, 1, "b4m"))
    assert [(shown(task), task.needs) for task in tasks] == [
        *(("content", ()), ("style", ()), ("second", (0, 1)), ("c0 s0", (2,)))
    ]


@dataclass
class Doubles:
    """Stand-ins for the workers of an engine: end jobs in any order, in `ways` that are told, DONE from then on."""

    count: int = 3
    ways: dict[int, list[Outcome]] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    most: int = 0
    closed: bool = False
    dice: Random = field(default_factory=lambda: Random(0))

    def free(self):
        return self.count - len(self.given)

    def begin(self, number, job):
        self.begun.append(number)
        self.given.append(number)
        self.most = max(self.most, len(self.given))

    def ended(self, seconds):
        if not self.given:
            return []
        number = self.given.pop(self.dice.randrange(len(self.given)))
        return [(number, self.ways.get(number, []).pop() if self.ways.get(number) else Outcome.DONE)]

    def close(self):
        self.closed = True


@pytest.fixture
def driven(tmp_path, monkeypatch):
    """driven(pool): nine pairs and six concepts, none of them done before."""
    monkeypatch.setattr(drive, "POLL", 0)
    monkeypatch.setattr(drive, "is_done", lambda job: False)
    tasks = work_list(plan(tmp_path))

    def driven(pool, **settings):
        drive.drive(tasks, pool, "try", **settings)
        return tasks

    return driven


def test_every_task_is_done_once_after_what_it_needs_by_as_many_as_there_are(driven):
    pool = Doubles()
    tasks = driven(pool)
    assert sorted(pool.begun) == [*range(len(tasks))] and pool.most == 3
    assert all(pool.begun.index(need) < pool.begun.index(n) for n in pool.begun for need in tasks[n].needs)


def test_what_is_lost_or_in_other_hands_is_begun_again_and_nothing_else(driven):
    pool = Doubles(ways={1: [Outcome.LOST], 4: [Outcome.BUSY, Outcome.LOST]})
    tasks = driven(pool, retries=1)
    assert Counter(pool.begun) == Counter({n: {1: 2, 4: 3}.get(n, 1) for n in range(len(tasks))})


def test_a_job_that_loses_worker_after_worker_is_said_so(driven):
    line = refused(lambda: driven(Doubles(ways={0: [Outcome.LOST] * 3}), retries=2), "lost 3 times", "memory")
    assert line.startswith("content-c0-")


def test_what_is_there_is_passed_over(driven, monkeypatch):
    monkeypatch.setattr(drive, "is_done", lambda job: isinstance(job, Training))
    pool = Doubles()
    tasks = driven(pool)
    assert {*pool.begun} == {n for n, task in enumerate(tasks) if not isinstance(task.job, Training)}
