"""B-LoRA: two blocks learn together, each file keeps its own, and the pair is their union."""

import pytest
import torch
from conftest import refused, tiny_pipeline
from contract import question
from diffusers import UNet2DConditionModel
from loras import ask, job

from b4m.backbones.registry import open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.files.lora import load_lora
from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec
from b4m.methods.b_lora import BLOCKS, BLoraContentConfig, BLoraMethod, BLoraStyleConfig, check_blocks
from b4m.methods.low_rank import DirectSumConfig
from b4m.sampling.attach import attach
from b4m.training.loop import train


@pytest.fixture(scope="module")
def files(tiny_base, folders, tmp_path_factory) -> dict[str, str]:
    root, found = tmp_path_factory.mktemp("blocks"), {}
    for kind, cls in (("content", BLoraContentConfig), ("style", BLoraStyleConfig)):
        config = job(cls, tiny_base, root / kind, **{f"{kind}_dir": folders[kind]})
        found[f"{kind}_file"] = str(train(config).path)
    return found


def test_both_blocks_learn_and_each_file_keeps_its_own(files, tiny_base, folders, tmp_path):
    config = job(BLoraContentConfig, tiny_base, tmp_path, content_dir=folders["content"])
    learner = BLoraMethod().task(config).start(open_backbone(tiny_base))
    assert {name.split("/")[1].split(".transformer")[0] for name in learner.named} == {*BLOCKS.values()}
    layers = {kind: load_lora(files[f"{kind}_file"])[0] for kind in BLOCKS}
    for kind, block in BLOCKS.items():
        assert layers[kind] and all(name.startswith(f"{block}.") for name in layers[kind])
        assert all(up.any() for up, _ in layers[kind].values())
    assert not layers["content"].keys() & layers["style"].keys()


def test_the_pair_is_the_union_and_a_weight_of_nothing_leaves_the_other_block(
    files, tiny_base, folders, tmp_path
):
    """Another style leaves what the content has bit for bit as it was, for nothing is added to it."""
    union = load_lora(train(job(DirectSumConfig, tiny_base, tmp_path / "sum", **files)).path)[0]
    for kind in BLOCKS:
        for name, pair in load_lora(files[f"{kind}_file"])[0].items():
            assert torch.equal(union[name][0], pair[0]) and torch.equal(union[name][1], pair[1])
    none = train(
        job(DirectSumConfig, tiny_base, tmp_path / "none", **files, content_weight=0.0, style_weight=0.0)
    ).path
    asked, bare, backbone = (
        question(tiny_base, folders["content"]),
        open_backbone(tiny_base),
        open_backbone(tiny_base),
    )
    attach(backbone, lora_file=str(none))
    assert torch.equal(ask(backbone, asked), ask(bare, asked))


def test_a_selector_that_matches_nothing_is_refused(tiny_base, folders, tmp_path):
    pipe = tiny_pipeline()
    pipe.unet = UNet2DConditionModel.from_config(
        {**pipe.unet.config, "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
    )
    backbone = SDXL(pipe, "a-base")
    refused(lambda: check_blocks(backbone), "a-base", "up_blocks.0.attentions.0")
    task = BLoraMethod().task(job(BLoraContentConfig, tiny_base, tmp_path, content_dir=folders["content"]))
    refused(lambda: task.start(backbone), "up_blocks.0.attentions.0")
    assert not any(p.requires_grad for p in pipe.unet.parameters())


def test_only_the_blocks_asked_for_are_adapted():
    denoiser = tiny_pipeline().unet
    adapter = Adapter.install(denoiser, BasisSpec(0, 2, 0.0, "random"), "all", ("up_blocks.0.attentions.0",))
    assert len(adapter.layers) == 8 and all(
        name.startswith("up_blocks.0.attentions.0.") for name in adapter.layers
    )


def test_on_sdxl_it_is_160_layers(monkeypatch):
    """Of the real architecture, without its weights."""
    with torch.device("meta"):
        denoiser = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
    adapter = Adapter.install(denoiser, BasisSpec(0, 1, 1.0, "random"), "all", tuple(BLOCKS.values()))
    assert len(adapter.layers) == 160
    assert {name.split(".transformer")[0] for name in adapter.layers} == {*BLOCKS.values()}
    at_64 = sum(64 * sum(denoiser.get_submodule(name).weight.shape) for name in adapter.layers)
    assert at_64 == 2 * 14_090_240
