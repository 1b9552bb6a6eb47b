"""Custom Diffusion: what learns, what class images do, what the merge keeps, what is refused."""

import pytest
import torch
from conftest import SIZE, refused
from loras import batch, job

from b4m.backbones.registry import open_backbone
from b4m.core.storage import read_tensors
from b4m.methods.class_images import ContentClassesConfig, StyleClassesConfig, class_prompt
from b4m.methods.custom_diffusion import (
    CustomContentConfig,
    CustomDiffusion,
    CustomJointConfig,
    CustomMergeConfig,
    CustomStyleConfig,
)
from b4m.methods.merging_keys import captions, distinct, features
from b4m.methods.protocol import Batch
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample
from b4m.training.loop import train

PROMPT = "a snq bear in w@z chalk style"
CLASSES = {"content": ContentClassesConfig, "style": StyleClassesConfig}


@pytest.fixture(scope="module")
def images(folders) -> dict[str, str]:
    return {"content_dir": folders["content"], "style_dir": folders["style"]}


@pytest.fixture(scope="module")
def classes(tiny_base, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("classes")
    settings = {"resolution": SIZE, "draw_count": 3, "draw_steps": 2}
    return {
        f"{kind}_classes_file": str(train(job(cls, tiny_base, root / kind, **settings)).path)
        for kind, cls in CLASSES.items()
    }


@pytest.fixture(scope="module")
def alone(tiny_base, images, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("alone")
    made = {}
    for kind, cls in {"content": CustomContentConfig, "style": CustomStyleConfig}.items():
        config = job(cls, tiny_base, root / kind, **{f"{kind}_dir": images[f"{kind}_dir"]})
        made[f"{kind}_file"] = str(train(config).path)
    return made


def test_class_images_are_the_base_models_own(tiny_base, classes, tmp_path):
    tensors, metadata = read_tensors(classes["content_classes_file"])
    assert (
        tensors["latents"].shape == (3, 4, 8, 8)
        and len({*map(float, tensors["latents"].flatten(1).sum(1))}) == 3
    )
    assert metadata["b4m.class_prompt"] == "a photo of object"
    style = job(CustomStyleConfig, tiny_base, tmp_path, style_dir="x", style_class="yarn")
    assert class_prompt(style, "style") == "a picture in yarn style"


def begun(tiny_base, tmp_path, **settings):
    task = CustomDiffusion().task(job(CustomJointConfig, tiny_base, tmp_path / "joint", **settings))
    learner = task.start(open_backbone(tiny_base))
    return task, learner, learner.encode(torch.device("cpu"))


def batch_of(task, cache) -> Batch:
    picked = task.inputs.picked(0, 0)
    return batch(cache, picked, torch.linspace(50, 900, len(picked)).long().tolist())


def test_keys_values_and_both_words_learn(tiny_base, images, classes, tmp_path):
    _, learner, _ = begun(tiny_base, tmp_path, **images, **classes)
    layers = [name for name in learner.named if name.startswith("kv/")]
    assert layers and all(name.endswith(("attn2.to_k", "attn2.to_v")) for name in layers)
    result = train(job(CustomJointConfig, tiny_base, tmp_path / "run", **images, **classes))
    tensors, metadata = read_tensors(result.path)
    start = {name: parameter.detach() for name, parameter in learner.named.items()}
    for name in ("words/clip_l", "words/clip_g"):
        assert tensors[name].shape == (2, 24) and (tensors[name] != start[name]).any(dim=1).all(), (
            "both words"
        )
    assert metadata["b4m.trained_parameters"] == str(sum(tensor.numel() for tensor in tensors.values()))
    assert metadata["b4m.role"] == "lora"


def test_class_images_add_their_own_loss(tiny_base, images, classes, tmp_path):
    losses = {}
    for name, settings in {
        "none": {},
        "prior": classes,
        "weight 0": {**classes, "prior_weight": 0.0},
    }.items():
        task, learner, cache = begun(tiny_base, tmp_path, **images, **settings)
        losses[name] = learner.loss(batch_of(task, cache))
    assert losses["none"][0] == losses["weight 0"][0] < losses["prior"][0]
    assert torch.equal(losses["none"][1], losses["prior"][1])  # of the images themselves
    task, learner, cache = begun(
        tiny_base, tmp_path, **images, content_classes_file=classes["content_classes_file"]
    )
    one = learner.loss(batch_of(task, cache))[0]
    assert losses["none"][0] < one < losses["prior"][0]


def test_the_merge_is_exact_on_the_prompts_tokens(tiny_base, alone, tmp_path):
    merged = train(job(CustomMergeConfig, tiny_base, tmp_path, **alone)).path
    tensors, metadata = read_tensors(merged)
    backbone = open_backbone(tiny_base)
    attach(backbone, lora_file=str(merged))
    prompts = {kind: metadata[f"b4m.{kind}_prompt"] for kind in ("content", "style")}
    C, owners = distinct({kind: features(backbone, prompt).detach() for kind, prompt in prompts.items()})
    assert {*owners} == {"content", "style"} and len(C) < sum(
        len(features(backbone, p)) for p in prompts.values()
    )
    for name, change in tensors.items():
        if name.startswith("kv/"):
            for row, owner in zip(C, owners, strict=True):
                wanted = read_tensors(alone[f"{owner}_file"])[0][name].double() @ row
                assert torch.allclose(
                    change.double() @ row, wanted, atol=1e-4 * float(wanted.abs().max()) + 1e-7
                )


def test_captions_are_many_and_of_the_models_words(tiny_base):
    found = captions(open_backbone(tiny_base))
    assert "a photo of bear" in found and len({*found}) == len(found) <= 200


def test_one_dial_or_none_and_off_it_is_the_base_model(tiny_base, alone, tmp_path):
    merged = str(train(job(CustomMergeConfig, tiny_base, tmp_path, **alone)).path)
    backbone, drawn = open_backbone(tiny_base), {}

    def draw(**dials):
        return sample(backbone, [PROMPT], [1], steps=2, size=SIZE, **dials)[0].tobytes()

    bare = draw()
    for name, files in {
        "merged": {"lora_file": merged},
        "content": {"content_file": alone["content_file"]},
    }.items():
        attach(backbone, **files)
        drawn[name] = draw()
        assert draw(content_strength=0, style_strength=0) == bare
    assert len({bare, *drawn.values()}) == 3
    assert draw(content_strength=0) == bare and draw(style_strength=0) == drawn["content"]
    attach(backbone, lora_file=merged)
    refused(lambda: draw(content_strength=0.5, style_strength=0.5), "0.5")
    refused(lambda: draw(content_strength=0.0), "cannot be split")
    attach(backbone)
    assert draw() == bare


def test_what_does_not_go_together_is_refused(tiny_base, alone, classes, images, trained, tmp_path):
    backbone = open_backbone(tiny_base)
    refused(lambda: attach(backbone, **alone), alone["content_file"], "custom-diffusion:merge")
    refused(
        lambda: attach(backbone, content_file=classes["content_classes_file"]),
        classes["content_classes_file"],
    )
    swapped = {"content_file": alone["style_file"], "style_file": alone["content_file"]}
    refused(
        lambda: CustomDiffusion().task(job(CustomMergeConfig, tiny_base, tmp_path, **swapped)), "exchange"
    )

    def joint(**changes):
        return CustomDiffusion().task(job(CustomJointConfig, tiny_base, tmp_path, **{**images, **changes}))

    refused(
        lambda: joint(content_classes_file=trained["content_file"]), trained["content_file"], "class images"
    )
    other = joint(**classes, resolution=2 * SIZE).start(backbone)
    refused(
        lambda: other.encode(torch.device("cpu")), classes["content_classes_file"], f"--resolution {2 * SIZE}"
    )
