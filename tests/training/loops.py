"""Loops at hand, one step at a time: what the tests of training share."""

import os
import shutil
import signal
from pathlib import Path

import torch

from b4m.config.training import TrainConfig
from b4m.methods.denoising import DenoisingLearner
from b4m.methods.registry import method_of
from b4m.training.launch import launch
from b4m.training.logbook import Logbook
from b4m.training.loop import Loop
from b4m.training.progress import find
from b4m.training.start import start


def loaded(config: TrainConfig) -> Loop:
    """A run as it stands before its next step."""
    accelerator = launch(config.mixed_precision, config.tracker, config.output_dir)
    task = method_of(type(config)).task(config)
    progress = find(config, task, accelerator.num_processes, print)
    book = Logbook(progress.folder, accelerator, progress.step)
    return Loop(config, accelerator, task.inputs, start(config, task, accelerator, print), progress, book)


def move(loop: Loop) -> None:
    """What the loop does with whatever gradients the micro-batches have left."""
    loop.learner.gather()
    loop.optimizer.step()


def same_files(one: Path, two: Path) -> bool:
    return Path(one).read_bytes() == Path(two).read_bytes()


def files_of(trained: dict[str, str], stage: str) -> dict[str, str]:
    """What a second stage goes on from; nothing for any other job."""
    return {key: trained[key] for key in ("content_file", "style_file")} if stage == "second" else {}


def without_style_samples(loop: Loop) -> None:
    """From now on only the samples of contents have a gradient."""
    predict, contents = loop.learner.backbone.predict, loop.inputs.content_samples

    def predicted(*arguments):
        out = predict(*arguments)
        return torch.cat([out[:contents], out[contents:].detach()])

    loop.learner.backbone.predict = predicted


def stop_after(monkeypatch, step: int, number: int = signal.SIGTERM) -> None:
    """The run gets a signal in the middle of that step."""
    micro_step = Loop.micro_step

    def interrupted(loop, index):
        if loop.step == step - 1 and index == 0:
            os.kill(os.getpid(), number)
        return micro_step(loop, index)

    monkeypatch.setattr(Loop, "micro_step", interrupted)


def poison(monkeypatch, step: int, name: str, gradient: bool) -> None:
    """In that step the image `name` has a loss of NaN, or only a gradient of NaN."""
    micro_step, loss = Loop.micro_step, DenoisingLearner.loss

    def poisoned(learner, batch):
        hit = [learner.inputs.images[image].path.name == name for image in batch.images.tolist()]
        factor = torch.where(torch.tensor(hit), float("nan"), 1.0)[:, None, None, None]
        predict = learner.backbone.predict

        def spoiled(*arguments):
            out = predict(*arguments)
            if not gradient:
                return out * factor
            out.register_hook(lambda g: g * factor)
            return out

        with monkeypatch.context() as patch:
            patch.setattr(learner.backbone, "predict", spoiled)
            return loss(learner, batch)

    def taken(loop, index):
        with monkeypatch.context() as patch:
            if loop.step == step - 1:
                patch.setattr(DenoisingLearner, "loss", poisoned)
            return micro_step(loop, index)

    monkeypatch.setattr(Loop, "micro_step", taken)


def bear(folders, folder: Path) -> str:
    """A content of one image with a name of its own."""
    (folder / "in").mkdir()
    shutil.copy(Path(folders["content"]) / "0.png", folder / "in/bear.png")
    return str(folder / "in")
