"""Every registered method, and every training it has, keeps the contract."""

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SIZE, refused, tiny_pipeline
from contract import Contract, Watched, config_of, watch

import b4m
from b4m.backbones.registry import open_backbone
from b4m.config.fields import flag
from b4m.config.stages import ContentConfig
from b4m.config.training import JobConfig, TrainConfig
from b4m.files.lora import save_lora
from b4m.methods.protocol import Method
from b4m.methods.registry import METHODS, job_named, method, method_of
from b4m.sampling.attach import attach
from b4m.training.loop import train

FRESH = {**os.environ, "PYTHONPATH": str(Path(b4m.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
JOBS = [(name, job) for name in METHODS.names() for job in METHODS.get(name).jobs]


def parametrized(trains: bool) -> pytest.MarkDecorator:
    found = [(name, job) for name, job in JOBS if issubclass(job, TrainConfig) == trains]
    return pytest.mark.parametrize(
        "job", [pytest.param(job, id=f"{name}:{job.stage}") for name, job in found]
    )


every_job, every_assembly = parametrized(trains=True), parametrized(trains=False)
every_result = pytest.mark.parametrize(
    "job", [pytest.param(job, id=f"{name}:{job.stage}") for name, job in JOBS]
)
every_method = pytest.mark.parametrize("name", METHODS.names())


@pytest.fixture(scope="module")
def contract(tiny_base, folders, tmp_path_factory) -> Contract:
    other = tmp_path_factory.mktemp("other")
    tiny_pipeline(widths=(32, 96)).save_pretrained(other)
    return Contract(tiny_base, str(other), folders["content"])


@dataclass
class Trainings:
    """Each training once; also the `Pair` of which a study asks for them."""

    root: Path
    known: dict
    done: dict[type[JobConfig], Any]
    given: dict[type[JobConfig], dict[str, Any]] = field(default_factory=dict)

    def config(self, job: type[JobConfig]) -> Any:
        """With the settings that the job's method gives it for a pair."""
        if job not in self.given and any(name.endswith("_file") for name in job.__dataclass_fields__):
            for name in (method_of(job).name, *METHODS.names()):
                if job not in self.given and name != "lora":
                    method(name).files(self)
        partners = self.known["styles" if "content_dir" in job.__dataclass_fields__ else "contents"]
        known = {**self.known, "partner_dirs": partners, **self.given.get(job, {})}
        return config_of(job, self.root / job.stage, known)

    def watched(self, job: type[JobConfig]) -> Watched:
        config = self.config(job)  # which may train it
        if job not in self.done:
            self.done[job] = watch(config)
        return self.done[job]

    def train(self, job: type[JobConfig], everything: bool = False, **settings: Any) -> Path:
        assert settings.keys() <= job.__dataclass_fields__.keys()
        assert all(value.exists() for value in settings.values() if isinstance(value, Path))
        self.given.setdefault(job, settings)
        return self.result(job)

    def result(self, job: type[JobConfig]) -> Path:
        if issubclass(job, TrainConfig):
            return self.watched(job).result
        config = self.config(job)
        if job not in self.done:
            self.done[job] = train(config).path
        return self.done[job]


@pytest.fixture(scope="module")
def trainings(tiny_base, folders, tmp_path_factory) -> Trainings:
    images = {"content_dir": folders["content"], "style_dir": folders["style"]}
    return Trainings(tmp_path_factory.mktemp("contract"), {"base_model": tiny_base, **folders, **images}, {})


@every_method
def test_methods_say_what_they_are(name):
    found: type[Method] = METHODS.get(name)
    assert found.name == name and len(found.doc) > 10 and "\n" not in found.doc
    assert {type(of) for of in (found.triggers, found.by_sample, found.two_dials)} == {bool}
    for job in found.jobs:
        assert issubclass(job, JobConfig)
        assert method_of(job).name == name  # a job belongs to one method
        assert job_named(name, job.stage) is job
    if not found.jobs:
        refused(lambda: job_named(name, None), name, "trains nothing")


@every_job
def test_training_starts_as_the_base_model_or_as_its_files(contract, trainings, job):
    contract.starts_where_it_should(trainings.config(job))


@every_job
def test_steps_move_what_is_named_and_nothing_else(contract, trainings, job):
    contract.moves_what_it_names(trainings.watched(job))


@every_job
def test_a_stopped_run_goes_on_bit_for_bit(contract, trainings, job, tmp_path):
    contract.resumes(trainings.watched(job), tmp_path / "again")


@every_job
def test_what_is_saved_is_what_was_learned(contract, trainings, job):
    contract.saves_what_it_learned(trainings.watched(job))


@every_result
def test_what_is_made_can_be_looked_at(contract, trainings, job, tmp_path):
    contract.can_be_looked_at(trainings.result(job), tmp_path)


@every_result
def test_wrong_files_are_refused(contract, trainings, job, tmp_path):
    contract.refuses_wrong_files(trainings.result(job), tmp_path)


@every_assembly
def test_the_same_files_make_the_same_file(trainings, job, tmp_path):
    config = trainings.config(job)
    path = trainings.result(job)
    again = train(replace(config, output_dir=str(tmp_path)))
    assert again.path.read_bytes() == path.read_bytes() and not again.losses


@every_method
def test_the_files_of_a_pair_go_on_and_off(contract, trainings, name):
    contract.brings_a_pair_together(method(name), trainings)


@pytest.mark.slow
@every_method
def test_two_processes_draw_the_same_bytes(trainings, tiny_base, name, tmp_path):
    files = {flag(role): str(path) for role, path in method(name).files(trainings).items()}
    # cc+es draws as its image was inverted
    drawn = {"--steps": "4", "--guidance": "2.5", "--size": str(SIZE), "--base-model": tiny_base, **files}
    drawn["--negative"] = "adapted"  # some have one strength for a whole batch
    asked = ["--preset", "embedded", "--prompts", "snq bear in w@z style", "--seeds", "1", "2"]
    command = [sys.executable, "-m", "b4m", "generate", *asked, *chain(*drawn.items())]
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        subprocess.run([*command, "--output-dir", str(folder)], check=True, env=FRESH)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(found[0]) == 2 and found[0] == found[1]


def test_what_trains_nothing_says_so(trainings):
    refused(lambda: method("words").task(trainings.config(ContentConfig)), "words")
    assert method("words").files(trainings) == {}
    refused(lambda: method("words").attach(None, {}), "words")


def test_an_ordinary_lora_goes_on_as_it_is_and_off(contract, tmp_path):
    generator = torch.Generator().manual_seed(2)
    merged, backbone = open_backbone(contract.base_model), open_backbone(contract.base_model)
    bare, layers = contract.answer(backbone), {}
    for name, module in merged.denoiser.named_modules():
        if name.endswith(("to_q", "to_v", "ff.net.2")):
            m, n = module.weight.shape
            up, down = (torch.randn(shape, generator=generator) / 4 for shape in ((m, 2), (2, n)))
            layers[name] = up, down
            module.weight += 0.5 * up @ down
    path = str(tmp_path / "lora.safetensors")
    save_lora(path, layers, {})
    attach(backbone, lora_file=path)
    expected = contract.answer(merged)
    assert (contract.answer(backbone, 0.5, 0.5) - expected).abs().max() < 1e-4 < (bare - expected).abs().max()
    refused(lambda: contract.answer(backbone, 0.5, 1.0), "0.5", "1.0", "cannot be split")
    attach(backbone)
    assert torch.equal(contract.answer(backbone), bare)
    other = open_backbone(contract.other_base)
    refused(lambda: attach(other, lora_file=path), path, contract.other_base)
