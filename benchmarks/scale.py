"""The planner and the driver at a million pairs: what they take, and how a cluster of simulated workers is kept busy.

OMP_NUM_THREADS=1 python benchmarks/scale.py --output benchmarks/scale.json

Plan, work list and driver are the ones that b4m library runs; only the workers are simulated, on a clock of their own.
No image is read: folders have names alone. Seconds of a training and of a pair are assumptions (docs/scale.md has the
arithmetic), which --training and --pair change.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import platform
import random
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import b4m.studies.engines.drive as drive
from b4m.studies.doing import Outcome
from b4m.studies.file import Study
from b4m.studies.plan import Names, Plan, Training
from b4m.studies.settings import EngineConfig
from b4m.studies.tasks import Task, work_list

SPREAD = 0.2  # jobs take between 1 - SPREAD and 1 + SPREAD of their seconds
LOST = 1e-3  # of the jobs lose their worker, half way on average


def million(contents: int, styles: int) -> Plan:
    """The plan of a library, one prompt, one seed, one position of the dials."""
    return Plan(
        Study(
            title="scale",
            rows={"both": {"method": "composed"}},
            contents=[f"contents/{number}" for number in range(contents)],
            styles=[f"styles/{number}" for number in range(styles)],
            partner_styles=[f"partners/styles/{number}" for number in range(5)],
            partner_contents=[f"partners/contents/{number}" for number in range(5)],
            prompts=["a {content} in {style} style"],
            seeds=[0],
        ),
        Path("outputs"),
    )


class Simulated:
    """Workers that take their time on a clock of their own."""

    def __init__(self, tasks: list[Task], workers: int, training: float, pair: float) -> None:
        self.tasks, self.workers, self.seconds = tasks, workers, (training, pair)
        self.dice, self.now, self.worked = random.Random(0), 0.0, 0.0
        self.at_work: list[tuple[float, int, Outcome]] = []
        self.pairs: list[float] = []  # when each was there
        self.lost = 0

    def free(self) -> int:
        return self.workers - len(self.at_work)

    def begin(self, number: int, job: object) -> None:
        seconds = self.seconds[not isinstance(job, Training)] * self.dice.uniform(1 - SPREAD, 1 + SPREAD)
        outcome = Outcome.DONE
        if self.dice.random() < LOST:
            seconds, outcome = seconds * self.dice.random(), Outcome.LOST
        self.worked += seconds
        heapq.heappush(self.at_work, (self.now + seconds, number, outcome))

    def ended(self, seconds: float) -> list[tuple[int, Outcome]]:
        self.now, number, outcome = heapq.heappop(self.at_work)
        if outcome is Outcome.LOST:
            self.lost += 1
        elif not isinstance(self.tasks[number].job, Training):
            self.pairs.append(self.now)
        return [(number, outcome)]

    def close(self) -> None:
        pass


def driven(tasks: list[Task], workers: int, training: float, pair: float) -> dict:
    """What the driver took, and what the workers came to."""
    drive.is_done = lambda job: False  # nothing of it is there
    pool = Simulated(tasks, workers, training, pair)
    started = time.process_time()
    drive.drive(tasks, pool, f"{workers} workers", retries=10)
    took = time.process_time() - started
    return {
        "workers": workers,
        "driver_seconds": round(took, 1),
        "driver_us_a_task": round(took / len(tasks) * 1e6, 1),
        "lost": pool.lost,
        "hours": round(pool.now / 3600, 2),
        "busy": round(pool.worked / pool.now / workers, 5),
        "first_pair_minutes": round(pool.pairs[0] / 60, 2),
        "pairs_after_one_hour": sum(when <= 3600 for when in pool.pairs),
        "pairs_after_two_hours": sum(when <= 7200 for when in pool.pairs),
    }


def measured(contents: int, styles: int, training: float, pair: float, workers: list[int]) -> dict:
    started = time.process_time()
    plan = million(contents, styles)
    planned = time.process_time()
    tasks = work_list(plan)
    listed = time.process_time()
    jobs = random.Random(0).sample([task.job for task in tasks], min(1000, len(tasks)))
    return {
        "concepts": contents + styles,
        "pairs": contents * styles,
        "tasks": len(tasks),
        "plan_seconds": round(planned - started, 1),
        "work_list_seconds": round(listed - planned, 1),
        "bytes_of_a_job": round(sum(len(pickle.dumps(job)) for job in jobs) / len(jobs)),
        "assumed_seconds": {"training": training, "pair": pair, "spread": SPREAD, "lost": LOST},
        "driven": [driven(tasks, count, training, pair) for count in workers],
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
        "machine": {"processor": platform.machine(), "python": platform.python_version()},
    }


def through_ray(count: int) -> dict:
    """CPU microseconds of the driver for a job through a real Ray: two workers, every job's result there already."""
    from ray.cluster_utils import Cluster

    from b4m.studies.engines.on_ray import OnRay

    folder = Path(tempfile.mkdtemp())
    training = next(iter(million(1, 1).trainings.values()))
    job = replace(training, config=replace(training.config, output_dir=str(folder)))
    job.result.touch()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    pool = OnRay(EngineConfig(address=cluster.address), folder, Names(), 2)
    while pool.free() < 2:
        pool.ended(1)
    drive.is_done = lambda job: False
    started, clock = time.process_time(), time.perf_counter()
    drive.drive([Task(job)] * count, pool, "Ray")
    found = {"jobs": count, "driver_us_a_job": round((time.process_time() - started) / count * 1e6)}
    found["jobs_a_second"] = round(count / (time.perf_counter() - clock))
    pool.close()
    cluster.shutdown()
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contents", type=int, default=9900)
    parser.add_argument("--styles", type=int, default=101)
    parser.add_argument("--training", type=float, default=190.0, help="seconds of a training")
    parser.add_argument("--pair", type=float, default=3.6, help="seconds of a pair's images")
    parser.add_argument("--workers", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--ray-jobs", type=int, metavar="N", help="instead: N jobs that are done already through a real Ray"
    )
    given = parser.parse_args()
    found = (
        through_ray(given.ray_jobs)
        if given.ray_jobs
        else measured(given.contents, given.styles, given.training, given.pair, given.workers)
    )
    given.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
