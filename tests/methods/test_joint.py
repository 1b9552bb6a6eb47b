"""Joint training: both factors from nothing in one run, and a second stage that goes on from them."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_pipeline

from b4m.backbones.latent_diffusion import denoiser_hash
from b4m.backbones.sdxl import SDXL
from b4m.config.stages import JointConfig
from b4m.config.training import LORA_FILE
from b4m.files.concept import check_pair, load_concept
from b4m.files.fused import inputs_in
from b4m.files.lora import load_lora
from b4m.files.opening import open_any
from b4m.maths.plp import FACTORS
from b4m.methods.factors import FactorLearner
from b4m.methods.joint import Joint
from b4m.methods.registry import job_named, method_of
from b4m.training.loop import train


def begun(config: JointConfig) -> FactorLearner:
    return Joint().task(config).start(SDXL(tiny_pipeline()))


def test_its_only_job_needs_no_name():
    assert job_named("joint", None) is job_named("joint", "joint") is JointConfig
    assert type(method_of(JointConfig)) is Joint


@pytest.mark.parametrize(
    ("changes", "content"),
    [({}, ({"content"}, {"style"})), ({"ratio": 0.0, "routing": False}, ({*FACTORS}, {*FACTORS}))],
    ids=["w/o MCP-I", "JTtrain"],
)
def test_both_factors_start_from_nothing_at_one_rate(changes, content, settings, tmp_path):
    learner = begun(settings("joint", tmp_path, lr=1e-2, target_rows=2, **changes))
    up = learner.adapter.lora()
    assert not any((B @ D).any() for B, D in up.values()), "the identity"
    made = learner.optimizer()
    assert type(made) is torch.optim.AdamW and [group["lr"] for group in made.param_groups] == [1e-2, 1e-2]
    of_content, of_style = content
    assert [learner.learns_from(sample) for sample in range(4)] == [of_content] * 2 + [of_style] * 2


def test_the_result_is_two_concepts_and_their_lora_and_a_second_stage_goes_on_from_it(settings, tmp_path):
    joint = train(settings("joint", tmp_path / "joint", ratio=0.0, routing=False, lr=0.05))
    assert joint.path == tmp_path / "joint" / LORA_FILE
    files = {f"{kind}_file": str(joint.path.with_name(f"{kind}.safetensors")) for kind in FACTORS}
    content, style = (load_concept(file) for file in files.values())
    assert content.metadata["prompt"] == "a photo of snq object" and style.metadata["trigger"] == "w@z"
    layers, metadata = load_lora(joint.path)
    for name, (up, down) in layers.items():  # nothing is frozen: B and D are the whole LoRA
        assert torch.equal(up, content.tensors[name]) and torch.equal(down, style.tensors[name])
    assert metadata["b4m.content_trigger"] == "snq" and metadata["b4m.unet_hash"] == content.unet_hash
    assert content.unet_hash == denoiser_hash(tiny_pipeline().unet)
    second = train(settings("second", tmp_path / "second", **files))
    assert load_lora(second.path)[0].keys() == layers.keys()


def test_a_content_of_joint_training_may_read_principal_inputs(settings, tmp_path):
    fused = open_any(train(settings("joint", tmp_path, steps=1, inputs="principal")).path)
    content, style = (load_concept(tmp_path / f"{kind}.safetensors") for kind in FACTORS)
    assert fused.spec == content.spec and content.inputs.keys() == content.tensors.keys()
    assert style.spec == replace(content.spec, inputs="cosine") and not style.inputs
    read = inputs_in(fused.layers, fused.spec)
    assert all(torch.equal(rows, read[name]) for name, rows in content.inputs.items())
    check_pair(content, style)
