"""A process that has imported everything and loaded the base model, and forks one child for every life asked for.

`python nursery.py BASE` reads one JSON object per line: {"flags": of b4m, "out": file for the output, "processes",
"port", "fault"} and answers with the children's numbers; on the next line, whatever it says, it waits for them and
answers with their exit statuses. Until then their numbers are nobody else's.
"""

import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}

import torch

from b4m.apps.cli import main
from b4m.apps.quiet import quiet
from b4m.backbones.registry import open_backbone
from b4m.methods import directions
from b4m.training import start
from b4m.training.loop import Loop

torch.set_num_threads(1)
quiet()
directions.prompts, directions.STEPS = lambda: ["a dog", "a red car on grass"], 2  # as in conftest.py


def slow(step: int, seconds: float, sign: str) -> None:
    """That step takes so long, and makes the file `sign` when it begins."""
    micro_step = Loop.micro_step

    def slowly(loop, index):
        if loop.step == step:
            Path(sign).touch()
            time.sleep(seconds)  # goes on after a signal
        return micro_step(loop, index)

    Loop.micro_step = slowly


def full(step: int, size: int) -> None:
    """From the end of that step on no file may grow beyond `size` bytes, as with a quota or a full disk."""
    advance = Loop.advance

    def limited(loop, loss):
        if loop.step == step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return advance(loop, loss)

    Loop.advance = limited


def breaks(step: int, rank: int) -> None:
    """One of several processes fails in that step, as a card that falls off its bus does."""
    micro_step = Loop.micro_step

    def broken(loop, index):
        if loop.step == step and loop.accelerator.process_index == rank:
            raise OSError("the card has gone")
        return micro_step(loop, index)

    Loop.micro_step = broken


def weighs(path: str) -> None:
    """No fault: writes how many frozen numbers each process holds, of how many, when a step's passes are done."""
    advance = Loop.advance

    def weighing(loop, loss):
        frozen = [p for p in loop.learner.backbone.denoiser.parameters() if not p.requires_grad]
        held = [p.to_local() if hasattr(p, "to_local") else p for p in frozen]
        numbers = [sum(p.numel() for p in each) for each in (held, frozen)]
        Path(f"{path}{loop.accelerator.process_index}").write_text(json.dumps(numbers))
        return advance(loop, loss)

    Loop.advance = weighing


FAULTS = {"slow": slow, "full": full, "breaks": breaks, "weighs": weighs}


def live(order: dict, rank: int) -> None:
    """A child's whole life."""
    handle = os.open(f"{order['out']}{rank or ''}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    if order.get("processes", 1) > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(order["processes"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(order["port"]),
        }
    for name, arguments in order.get("fault", {}).items():
        FAULTS[name](*arguments)
    status = 99
    try:
        status = main(order["flags"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def serve(base: str) -> None:
    backbone = open_backbone(base)
    start.open_backbone = lambda *_: backbone  # every child has a copy of its own
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        children = []
        for rank in range(order.get("processes", 1)):
            child = os.fork()
            if child == 0:
                live(order, rank)
            children.append(child)
        print(json.dumps(children), flush=True)
        sys.stdin.readline()
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(statuses), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
