"""Every registered method, and every training it has, keeps the contract."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import refused, tiny_pipeline
from contract import Contract, Watched, config_of, watch

from b4m.backbones.registry import open_backbone
from b4m.config.training import ContentConfig, StyleConfig, TrainConfig
from b4m.files.lora import save_lora
from b4m.methods.protocol import Method
from b4m.methods.registry import METHODS, job_named, method, method_of
from b4m.sampling.attach import attach

JOBS = [(name, job) for name in METHODS.names() for job in METHODS.get(name).jobs]
every_job = pytest.mark.parametrize(
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
    done: dict[type[TrainConfig], Watched]

    def config(self, job: type[TrainConfig]) -> TrainConfig:
        files = {}
        if "content_file" in job.__dataclass_fields__:
            files = {f"{first.stage}_file": str(self.train(first)) for first in (ContentConfig, StyleConfig)}
        partners = self.known["styles" if "content_dir" in job.__dataclass_fields__ else "contents"]
        return config_of(job, self.root / job.stage, {**self.known, "partner_dirs": partners, **files})

    def watched(self, job: type[TrainConfig]) -> Watched:
        if job not in self.done:
            self.done[job] = watch(self.config(job))
        return self.done[job]

    def train(self, job: type[TrainConfig], everything: bool = False, **settings: Path) -> Path:
        assert settings.keys() <= job.__dataclass_fields__.keys()
        assert all(path.exists() for path in settings.values())
        return self.watched(job).result


@pytest.fixture(scope="module")
def trainings(tiny_base, folders, tmp_path_factory) -> Trainings:
    images = {"content_dir": folders["content"], "style_dir": folders["style"]}
    return Trainings(tmp_path_factory.mktemp("contract"), {"base_model": tiny_base, **folders, **images}, {})


@every_method
def test_methods_say_what_they_are(name):
    found: type[Method] = METHODS.get(name)
    assert found.name == name and len(found.doc) > 10 and "\n" not in found.doc
    assert isinstance(found.triggers, bool)
    for job in found.jobs:
        assert issubclass(job, TrainConfig)
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


@every_job
def test_wrong_files_are_refused(contract, trainings, job, tmp_path):
    contract.refuses_wrong_files(trainings.watched(job), tmp_path)


@pytest.mark.parametrize("name", [name for name in METHODS.names() if name != "lora"])
def test_the_files_of_a_pair_go_on_and_off(contract, trainings, name):
    contract.brings_a_pair_together(method(name), trainings)


def test_what_trains_nothing_says_so(trainings):
    for name in ("lora", "words"):
        refused(lambda name=name: method(name).task(trainings.config(ContentConfig)), name)
    refused(lambda: method("lora").files(trainings), "lora")  # from anywhere: no study trains one
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
