"""Distilled bases: a LoRA merged into the base under a content and a style, few steps, no second prediction."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, refused
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, StableDiffusionXLPipeline
from diffusers.utils import logging
from safetensors.torch import save_file
from test_generate import PROMPT, difference, draw, options

import b4m
from b4m.backbones.latent_diffusion import denoiser_hash
from b4m.backbones.registry import open_backbone
from b4m.config.resolve import resolve
from b4m.config.sampling import GenerateConfig
from b4m.files.concept import Concept, save_concept
from b4m.files.export import export
from b4m.files.settings import ExportConfig
from b4m.maths.adapter import Adapter
from b4m.maths.plp import BasisSpec
from b4m.sampling.generate import draw as drawn
from b4m.sampling.sample import open_for, sample
from b4m.studies.tasks import base_of

BASE = "examples/world/base"
SPEC = BasisSpec(rank=8)
# Kinds of layers that the published LCM-LoRA and Lightning's LoRAs change.
CHANGED = (
    "to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 conv1 conv2 conv_shortcut time_emb_proj "
    "downsamplers.0.conv upsamplers.0.conv"
).split()


def distilled(denoiser, path: Path, rank: int = 4, size: float = 0.1) -> str:
    """A random LoRA of those layers as such files are: kohya's names, and an alpha that is not the rank."""
    torch.manual_seed(0)
    tensors = {}
    for name, module in denoiser.named_modules():
        if not name.endswith(tuple(f".{end}" for end in CHANGED)):
            continue
        m, n, *kernel = module.weight.shape
        up, down = torch.randn(m, rank, *[1] * len(kernel)), torch.randn(rank, n, *kernel)
        key = f"lora_unet_{name.replace('.', '_')}"
        share = size * module.weight.norm() / (up.flatten(1) @ down.flatten(1)).norm()
        tensors |= {f"{key}.lora_up.weight": 2 * share * up, f"{key}.lora_down.weight": down}
        tensors[f"{key}.alpha"] = torch.tensor(rank / 2)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """content_file, style_file and base_lora for the embedded base."""
    folder = tmp_path_factory.mktemp("few")
    denoiser = open_backbone(BASE).denoiser
    made = {"base_lora": distilled(denoiser, folder / "lcm.safetensors")}
    adapter = Adapter.install(denoiser, SPEC, "all")
    for kind, half in (("content", "B"), ("style", "D")):
        tensors = {name: 0.1 * torch.randn_like(getattr(each, half)) for name, each in adapter.layers.items()}
        made[f"{kind}_file"] = str(folder / f"{kind}.safetensors")
        save_concept(made[f"{kind}_file"], Concept(kind, tensors, SPEC, "all", denoiser_hash(denoiser)))
    return made


@pytest.mark.parametrize(
    ("scheduler", "stocks"), [("lcm", [LCMScheduler]), ("euler", [EulerDiscreteScheduler, DDIMScheduler])]
)
def test_dials_on_a_distilled_base_are_stock_diffusers_with_both_loras(files, tmp_path, scheduler, stocks):
    dials = {"content_strength": 1.2, "style_strength": 0.7}
    concepts = {name: files[name] for name in ("content_file", "style_file")}
    fused = str(tmp_path / "fused.safetensors")
    export(resolve(ExportConfig, "embedded", output=fused, dtype="fp32", **concepts, **dials))
    logging.set_verbosity_error()
    pipe = StableDiffusionXLPipeline.from_pretrained(BASE, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)

    def theirs(stock: type, *loras: str) -> np.ndarray:
        pipe.scheduler = stock.from_config(pipe.scheduler.config, clip_sample=False)
        pipe.set_adapters(list(loras))
        generator = torch.Generator().manual_seed(4)
        given = {"num_inference_steps": 4, "guidance_scale": 1.0, "generator": generator}
        return np.asarray(pipe(PROMPT, height=128, width=128, **given).images[0]).astype(int)

    for name, file in (("lcm", files["base_lora"]), ("fused", fused)):
        pipe.load_lora_weights(file, adapter_name=name)
    config = resolve(
        GenerateConfig,
        "embedded",
        prompts=PROMPT,
        seeds=4,
        steps=4,
        guidance=1.0,
        scheduler=scheduler,
        **files,
        **dials,
    )
    ours = np.asarray(drawn(config)[0].image).astype(int)
    for stock in stocks:
        assert difference(ours, theirs(stock, "lcm", "fused")) <= 1
    for less in ("lcm", "fused"):
        assert difference(ours, theirs(stocks[0], less)) > 20  # so that the agreement means something


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 1), (1.0, 1), (1.5, 2)])
def test_without_guidance_a_step_is_one_prediction(tiny_base, trained, guidance, rows):
    backbone = open_backbone(tiny_base)
    b4m.sampling.attach.attach(backbone, trained["content_file"], trained["style_file"])
    seen, read = [], []
    backbone.denoiser.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    backbone.pipe.text_encoder.register_forward_pre_hook(lambda _, given: read.append(len(given[0])))
    given = {"steps": 4, "guidance": guidance, "negative_prompt": "chalk", "scheduler": "lcm"}
    sample(backbone, [PROMPT], [1], **given)
    assert seen == [rows] * 4 and sum(read) == rows, "nor is the negative prompt read"


def test_an_images_noise_is_its_own_whatever_its_batch(tiny_base):
    backbone = open_backbone(tiny_base)
    together = draw(backbone, (1, 2), scheduler="lcm")
    for index, seed in enumerate((1, 2)):
        assert difference(together[index : index + 1], draw(backbone, (seed,), scheduler="lcm")) <= 1
    assert difference(together[:1], draw(backbone, (1,))) > 4


def test_what_an_image_says_and_a_study_loads_know_the_lora(tiny_base, tmp_path):
    lora = distilled(open_backbone(tiny_base).denoiser, tmp_path / "lcm.safetensors")
    config = options(tiny_base, tmp_path, prompts="a bear", base_lora=lora, scheduler="lcm", guidance=1.0)
    (path,) = b4m.sampling.generate.generate(config)
    with b4m.sampling.grid.Image.open(path) as image:
        assert image.text["base_lora"] == lora and image.text["scheduler"] == "lcm"
    assert base_of(config) != base_of(dataclasses.replace(config, base_lora=None))
    model = b4m.load(preset="embedded", base_model=tiny_base, base_lora=lora, scheduler="lcm", guidance=1.0)
    again = model.draw("a bear", 77, steps=2, size=SIZE)[0]
    assert difference(np.asarray(again).astype(int), np.asarray(drawn(config)[0].image).astype(int)) == 0
    refused(lambda: model.draw("a bear", base_lora=None), "base_lora cannot change")


def test_half_precision_is_rounded_once(tiny_base, tmp_path):
    lora = distilled(open_backbone(tiny_base).denoiser, tmp_path / "lcm.safetensors", size=1e-3)
    weights = []
    for precision in ("no", "bf16"):
        config = options(tiny_base, tmp_path, prompts="x", base_lora=lora, mixed_precision=precision)
        weights.append(open_for(config).denoiser.mid_block.attentions[0].proj_in.weight)
    exact, rounded = weights
    assert (
        torch.equal(rounded, exact.bfloat16()) or (rounded - exact).abs().max() <= exact.abs().max() * 2**-8
    )


def test_what_cannot_work_is_refused_in_a_line_and_what_says_nothing_gets_one(
    tiny_base, trained, tmp_path, capsys
):
    def with_(**given) -> GenerateConfig:
        return options(tiny_base, tmp_path, prompts="a bear", **given)

    refused(lambda: with_(scheduler="lcm", steps=51), "--steps 51", "50 at most")
    refused(lambda: with_(scheduler="ddim"), "--scheduler 'ddim'", "euler, lcm")
    refused(lambda: drawn(with_(base_lora=trained["content_file"])), "holds a content", "--content-file")
    other = distilled(open_backbone(BASE).denoiser, tmp_path / "other.safetensors")
    refused(lambda: drawn(with_(base_lora=other)), other, "do not fit")
    drawn(with_(guidance=1.0, negative_prompt="chalk"))
    drawn(with_(guidance=3.0, scheduler="lcm"))
    said = capsys.readouterr().err
    assert "--guidance 1: nothing is led away from" in said and "--guidance 3 and --scheduler lcm" in said
