"""What every method owes the house, as checks of its trainings. test_contract.py holds all methods to it."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZE, refused
from torch import Tensor

from b4m.apps.info import describe
from b4m.backbones.cache import encode
from b4m.backbones.protocol import Backbone, BySample, Told
from b4m.backbones.registry import open_backbone
from b4m.config.resolve import resolve
from b4m.config.training import TrainConfig
from b4m.core.errors import UserError
from b4m.data.images import load_folder
from b4m.evaluation.inspection import inspect
from b4m.evaluation.settings import InspectConfig
from b4m.files.opening import open_any
from b4m.methods.protocol import Learner, Method
from b4m.methods.registry import method_of
from b4m.sampling.attach import attach, dials
from b4m.training import loop

STEPS = 2
PROMPTS = ["a photo of snq", "w@z style"]
ROLES = ("content", "style", "lora")
KEPT = (".safetensors", ".jsonl", ".json")  # of what a run leaves; its lock is another one's


def config_of(job: type[TrainConfig], output_dir: Path, known: Mapping[str, Any]) -> TrainConfig:
    """Settings of any job, filled with what it asks for of `known`, at rates that show."""
    asked = {f.name for f in fields(job)}
    rates = {"steps": STEPS, "checkpoint_every": 1, "lr": 1e-2, "partner_lr": 1e-2, "rank": 4}
    rates |= {"draw_count": 2, "draw_steps": 2, "inversion_steps": 4}
    given = {"output_dir": str(output_dir), "resolution": SIZE, **rates, **known}
    return resolve(job, "embedded", **{name: value for name, value in given.items() if name in asked})


@cache
def question(base_model: str, folder: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Latents, timesteps and conditions to ask a denoiser with."""
    cached = encode(open_backbone(base_model), load_folder(folder, SIZE)[:2], PROMPTS)
    noisy = torch.randn(2, *cached.latents[0].shape, generator=torch.Generator().manual_seed(1))
    return noisy, torch.tensor([10, 900]), cached.conditions(torch.tensor([0, 1]))


@dataclass(frozen=True)
class Watched:
    """A training that was run to its end, and what it has in memory then."""

    config: TrainConfig
    learner: Learner
    start: dict[str, Tensor]  # what learns, before the first step
    frozen: dict[str, Tensor]  # all else on the denoiser, before the first step
    result: Path


def watch(config: TrainConfig) -> Watched:
    """Train, and look on."""
    seen = {}
    begin = loop.start

    def start(*given):
        ready = begin(*given)
        learns = {name: parameter.detach().clone() for name, parameter in ready.learner.named.items()}
        frozen = {name: part.clone() for name, part in frozen_parts(ready.learner).items()}
        seen.update(learner=ready.learner, start=learns, frozen=frozen)
        return ready

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "start", start)
        result = loop.train(config)
    return Watched(config, **seen, result=result.path)


def frozen_parts(learner: Learner) -> dict[str, Tensor]:
    """All parameters and buffers that do not learn, on the denoiser and on what else takes part in a step."""
    pipe, learns = learner.backbone.pipe, set(map(id, learner.named.values()))
    encoders = {name: getattr(pipe, name) for name in learner.backbone.encoders.values()}
    modules = {"denoiser": learner.backbone.denoiser, **encoders}
    parts = {
        f"{name}.{part}": tensor
        for name, module in modules.items()
        if module is not None
        for part, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    return {name: part for name, part in parts.items() if id(part) not in learns}


class Contract:
    """Checks on one base model. content: a folder of images; other_base: of another architecture."""

    def __init__(self, base_model: str, other_base: str, content: str) -> None:
        self.base_model, self.other_base = base_model, other_base
        self.question = question(base_model, content)

    @torch.no_grad()
    def answer(self, backbone: Backbone, content: float = 1.0, style: float = 1.0) -> Tensor:
        """What the denoiser says, with what is attached to it at these dials."""
        noisy, timesteps, conditions = self.question
        attention = dials(backbone, content, style)  # first: some turn words on and off
        if backbone.pipe.text_encoder is not None:
            prompts = PROMPTS
            if isinstance(backbone.attached, Told):
                asked = zip(prompts, timesteps.tolist(), strict=True)
                prompts = [backbone.attached.prompt_at(*each) for each in asked]
            conditions = {**conditions, **backbone.encode_prompts(prompts)}
        return backbone.predict(noisy, timesteps, conditions, attention)

    def starts_where_it_should(self, config: TrainConfig) -> None:
        """As the base model, or as the files that the job goes on from; bit for bit. New words start as plain ones."""
        names = {f.name for f in fields(config)} & {f"{role}_file" for role in ROLES}
        files = {name: getattr(config, name) for name in names}
        expected, backbone = open_backbone(self.base_model), open_backbone(self.base_model)
        bare = self.answer(expected)
        learner = method_of(type(config)).task(config).start(backbone)
        if learner.reads_prompts:
            backbone.attached.remove()
            backbone.attached = None
        assert torch.equal(self.answer(backbone), bare) == (not names)
        if all(
            open_any(file).concept for file in files.values()
        ):  # from LoRAs: as the method's own tests say
            attach(expected, **files)
            assert torch.equal(self.answer(backbone), self.answer(expected))

    def moves_what_it_names(self, watched: Watched) -> None:
        """And nothing else on the denoiser."""
        after = frozen_parts(watched.learner)
        assert after.keys() == watched.frozen.keys()
        assert not [name for name, part in after.items() if not torch.equal(part, watched.frozen[name])]
        assert not [name for name, part in after.items() if part.requires_grad]
        named = watched.learner.named
        assert named and not [name for name in named if torch.equal(named[name], watched.start[name])]

    def resumes(self, watched: Watched, folder: Path) -> None:
        """From the state after one step to the same files; bit for bit."""
        whole = Path(watched.config.output_dir)
        shutil.copytree(whole, folder)
        shutil.rmtree(folder / "state" / f"step-{STEPS:06d}")
        for result in folder.glob("*.safetensors"):
            result.unlink()
        again = loop.train(replace(watched.config, output_dir=str(folder)))
        assert again.seconds  # was not finished before
        files = [path for path in whole.rglob("*") if path.suffix in KEPT]
        assert watched.result in files
        for path in files:
            assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes(), path

    def saves_what_it_learned(self, watched: Watched) -> None:
        """On a fresh base model the file answers as the learner does; taken off, it leaves the base model."""
        role = open_any(watched.result).role
        backbone = open_backbone(self.base_model)
        bare = self.answer(backbone)
        attach(backbone, **{f"{role}_file": str(watched.result)})
        # A concept file keeps one factor; the partners' was in training only.
        dialled = {"content": (1.0, 0.0), "style": (0.0, 1.0), "lora": (1.0, 1.0)}[role]
        opened, answer = open_any(watched.result), self.answer(backbone)
        if opened.kind == "LoRA":  # which may keep some layers only
            for name, parameter in watched.learner.named.items():
                parameter.data.mul_(name.partition("/")[2] in opened.layers)
        learned = self.answer(watched.learner.backbone, *dialled)
        if opened.kind == "LoRA":  # through peft, which multiplies in another order
            assert (answer - learned).abs().max() < 1e-3 * (learned - bare).abs().max()
        else:
            assert torch.equal(answer, learned) and not torch.equal(learned, bare)
        assert torch.equal(self.answer(backbone, 0.0, 0.0), bare)
        attach(backbone)
        assert torch.equal(self.answer(backbone), bare)

    def refuses_wrong_files(self, path: Path, folder: Path) -> None:
        """In one line that names the file; the base model stays as it was. path: a result."""
        role = open_any(path).role
        backbone, other = open_backbone(self.base_model), open_backbone(self.other_base)
        data = path.read_bytes()
        cut, changed = folder / f"cut-{path.name}", folder / f"changed-{path.name}"
        cut.write_bytes(data[:-100])
        changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        for wrong in {*ROLES} - {role} if open_any(path).kind != "LoRA" else ():
            refused(lambda wrong=wrong: attach(backbone, **{f"{wrong}_file": str(path)}), path)
        refused(lambda: attach(backbone, **{f"{role}_file": str(cut)}), cut)
        if "b4m.sha256" in open_any(path).metadata:  # a LoRA is everyone's, and has none
            refused(lambda: attach(backbone, **{f"{role}_file": str(changed)}), changed, "changed")
        refused(lambda: attach(other, **{f"{role}_file": str(path)}), path, self.other_base)
        assert backbone.attached is None and other.attached is None

    def can_be_looked_at(self, path: Path, folder: Path) -> None:
        """By what tells of a file and what measures it: a result and what lies beside it, but for images of a class."""
        for file in path.parent.glob("*.safetensors"):
            told, config = describe(file), InspectConfig(str(file), output=str(folder))
            assert told["file"] == str(file) and told["bytes"] == file.stat().st_size
            if all(tensor.dim() != 2 for tensor in open_any(file).tensors.values()):
                refused(lambda config=config: inspect(config), file, "holds no matrices")
                continue
            assert told["trained_parameters"].isdecimal()
            assert any(measured["norm"]["dW"] > 0 for measured in inspect(config)["layers"].values())

    def brings_a_pair_together(self, method: Method, pair: Any) -> None:
        """What a study draws with goes on the base model, and off again."""
        backbone = open_backbone(self.base_model)
        bare = self.answer(backbone)
        files = method.files(pair)
        attach(backbone, **{name: str(path) for name, path in files.items()})
        assert torch.equal(self.answer(backbone), bare) == (not files)
        if files:
            assert isinstance(backbone.attached, BySample) == method.by_sample
            assert _turns_apart(backbone) == method.two_dials
        attach(backbone)
        assert torch.equal(self.answer(backbone), bare)


def _turns_apart(backbone: Backbone) -> bool:
    """Whether what is attached takes a strength of the content without one of the style."""
    try:
        dials(backbone, 1.0, 0.0)
    except UserError:
        return False
    return True
