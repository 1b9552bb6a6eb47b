"""Stable Diffusion 1.x and 2.x: trained, drawn and exported like SDXL; stock Diffusers reads the files and agrees."""

import json
import logging
import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZE, refused, tiny_sd15_pipeline
from diffusers import DDPMScheduler, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from b4m.backbones.registry import family_of, open_backbone
from b4m.backbones.sd15 import SD15
from b4m.core.storage import read_tensors
from b4m.data.images import load_folder
from b4m.files.dialects import DIALECTS
from b4m.files.export import export
from b4m.files.settings import ExportConfig
from b4m.maths.objective import draw_noise
from b4m.methods.protocol import Batch
from b4m.methods.registry import method_of
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample
from b4m.training.loop import train

PROMPT, SEED, STEPS = "a photo of snq bear in w@z yarn style", 7, 3
V2 = {"use_linear_projection": True}
# What kohya writes for a base model, and A1111 looks for.
STAMPS = {
    "v1": {"modelspec.architecture": "stable-diffusion-v1", "ss_base_model_version": "sd_v1"},
    "v2": {
        "modelspec.architecture": "stable-diffusion-v2-768-v",
        "ss_base_model_version": "sd_v2_v",
        "ss_v2": "True",
    },
}


class Made:
    """A tiny base model, and what was trained on it."""

    def __init__(self, version: str, root: Path, settings) -> None:
        self.version, self.base = version, str(root / "base")
        pipe = (
            tiny_sd15_pipeline()
            if version == "v1"
            else tiny_sd15_pipeline(unet=V2, prediction_type="v_prediction")
        )
        pipe.save_pretrained(self.base)
        self.settings, self.files = settings, {}
        for stage in ("content", "style"):
            config = self.config(stage, root / stage, lr=0.05, partner_lr=0.05, preview_every=2)
            self.files[f"{stage}_file"] = str(train(config).path)
        self.fused = str(train(self.config("second", root / "second", lr=1e-3, **self.files)).path)

    def config(self, stage: str, folder: Path, **changes):
        return self.settings(stage, folder, base_model=self.base, **changes)

    @cache  # noqa: B019 (as long as the test module)
    def ours(self, **files: str) -> np.ndarray:
        backbone = open_backbone(self.base)
        attach(backbone, **files)
        return np.asarray(sample(backbone, [PROMPT], [SEED], steps=STEPS, size=SIZE)[0], dtype=int)

    def stock(
        self, lora: str | None = None, unet: UNet2DConditionModel | None = None, **options
    ) -> np.ndarray:
        """Drawn as anybody would with Diffusers."""
        parts = {} if unet is None else {"unet": unet}
        pipe = StableDiffusionPipeline.from_pretrained(self.base, safety_checker=None, **parts)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        if lora:
            pipe.load_lora_weights(
                lora, **({"unet_config": pipe.unet.config} if options.get("original") else {})
            )
        generator = torch.Generator().manual_seed(SEED)
        drawn = pipe(
            PROMPT,
            num_inference_steps=STEPS,
            guidance_scale=5.0,
            generator=generator,
            height=SIZE,
            width=SIZE,
        )
        return np.asarray(drawn.images[0], dtype=int)


@pytest.fixture(scope="module")
def making(settings, tmp_path_factory):
    """Each version once, in whatever order the tests ask for them."""
    return cache(lambda version: Made(version, tmp_path_factory.mktemp(version), settings))


@pytest.fixture(params=["v1", "v2"])
def made(request, making) -> Made:
    return making(request.param)


@pytest.fixture
def warned(caplog):
    """What Diffusers warns of: a key that does not fit is no error there."""
    logger = logging.getLogger("diffusers")
    logger.addHandler(caplog.handler)
    yield lambda: [r.getMessage() for r in caplog.records if "text_encoder" not in r.getMessage()]
    logger.removeHandler(caplog.handler)


def apart(one: np.ndarray, two: np.ndarray) -> int:
    """Levels of 255."""
    return np.abs(one - two).max()


def test_both_are_of_one_family(made):
    backbone = open_backbone(made.base)
    assert family_of(made.base) is SD15 and type(backbone) is SD15
    assert backbone.prediction_type == {"v1": "epsilon", "v2": "v_prediction"}[made.version]
    assert SD15.read_prediction_type(made.base) == backbone.prediction_type


def test_ours_draws_what_the_pipeline_draws(made):
    assert apart(made.ours(), made.stock()) <= 1


def test_training_moves_the_picture_and_previews_are_drawn(made):
    bare, content, style = made.ours(), *(made.ours(**{name: path}) for name, path in made.files.items())
    assert min(apart(bare, content), apart(bare, style), apart(content, style)) > 4
    assert apart(made.ours(lora_file=made.fused), bare) > 4
    for path in made.files.values():
        assert [p.name for p in Path(path).parent.glob("previews/*")] == ["step-000002.png"]


def test_the_loss_is_that_of_the_noise_process(made, folders, tmp_path):
    """Said with Diffusers' own scheduler."""
    backbone = open_backbone(made.base)
    task = method_of(type(config := made.config("content", tmp_path))).task(config)
    learner = task.start(backbone)
    images = torch.tensor([0, 1, 2])
    cache = learner.encode(torch.device("cpu"))
    noise, timesteps = draw_noise(1, 0, range(3), cache.latents[0].shape, 1000)
    latents, conditions = torch.stack(list(cache.latents[:3])), cache.conditions(images)
    weights = torch.full((3,), 1 / 3)
    loss, of_samples = learner.loss(Batch(images, latents, noise, timesteps, weights, conditions, range(3)))
    process = DDPMScheduler.from_config(backbone.pipe.scheduler.config)
    with torch.no_grad():
        said = backbone.denoiser(
            process.add_noise(latents, noise, timesteps), timesteps, conditions["hidden"]
        ).sample
    wanted = noise if made.version == "v1" else process.get_velocity(latents, noise, timesteps)
    expected = (said - wanted).square().mean((1, 2, 3))
    assert torch.allclose(of_samples, expected, rtol=1e-4) and torch.allclose(
        loss, expected.mean(), rtol=1e-4
    )


def test_training_sees_latents_and_prompts_as_the_pipeline_makes_them(made, folders):
    backbone = open_backbone(made.base)
    pipe, (image, *_) = backbone.pipe, load_folder(folders["content"], SIZE)
    assert backbone.image_conditions(image) == {}
    with torch.no_grad():
        latents = pipe.vae.encode(image.pixels[None]).latent_dist.mode() * pipe.vae.config.scaling_factor
        tokens = pipe.tokenizer([PROMPT], padding="max_length", max_length=16, return_tensors="pt").input_ids
        hidden = pipe.text_encoder(tokens).last_hidden_state
    assert torch.equal(backbone.encode_images(image.pixels[None]), latents)
    assert torch.allclose(backbone.encode_prompts([PROMPT])["hidden"], hidden, atol=1e-6)


# All but the published spelling, which was for SDXL's alone.
EXPORTED = [*(("v1", name) for name in DIALECTS if name != "published"), ("v2", "diffusers"), ("v2", "kohya")]


@pytest.mark.parametrize(("made", "dialect"), EXPORTED, indirect=["made"])
def test_stock_diffusers_draws_the_same_with_an_exported_file(made, dialect, tmp_path, warned):
    config = ExportConfig(
        output=str(tmp_path / "x.safetensors"),
        dtype="fp32",
        dialect=dialect,
        base_model=made.base,
        **made.files,
    )
    path = str(export(config))
    ours = made.ours(**made.files)
    # Diffusers reads original names for this family when it is told the UNet's layers_per_block.
    assert apart(made.stock(path, original=dialect == "kohya-original"), ours) <= 1
    assert warned() == []
    assert apart(made.ours(lora_file=path), ours) == 0  # our own reader
    header = read_tensors(path)[1]
    for key, value in STAMPS[made.version].items():
        assert header[key] == value + ("/lora" if key == "modelspec.architecture" else "")
    assert "sdxl" not in json.dumps(header)


def test_stock_diffusers_draws_the_same_with_the_file_of_the_second_stage(made, warned):
    assert apart(made.stock(made.fused), made.ours(lora_file=made.fused)) <= 1
    assert warned() == []
    header = read_tensors(made.fused)[1]
    stamp = STAMPS[made.version]
    assert stamp.items() <= {**header, "modelspec.architecture": stamp["modelspec.architecture"]}.items()
    assert header["modelspec.architecture"] == stamp["modelspec.architecture"] + "/lora"


def test_a_merged_unet_draws_the_same_and_says_what_it_is(made, tmp_path):
    config = ExportConfig(
        output=str(tmp_path / "unet"), merge=True, dtype="fp32", base_model=made.base, **made.files
    )
    folder = export(config)
    assert apart(made.stock(unet=UNet2DConditionModel.from_pretrained(folder)), made.ours(**made.files)) <= 1
    header = read_tensors(folder / "diffusion_pytorch_model.safetensors")[1]
    assert STAMPS[made.version].items() <= header.items()


@pytest.mark.parametrize("made", ["v1"], indirect=True)
def test_files_of_one_family_are_refused_on_another(made, tiny_base, trained, tmp_path):
    sdxl, sd = open_backbone(tiny_base), open_backbone(made.base)
    for name, path in {**made.files, "lora_file": made.fused}.items():
        refused(lambda name=name, path=path: attach(sdxl, **{name: path}), path, tiny_base)
    for name, path in trained.items():
        refused(lambda name=name, path=path: attach(sd, **{name: path}), path, made.base)
    out = str(tmp_path / "x.safetensors")
    refused(lambda: export(ExportConfig(output=out, base_model=tiny_base, **made.files)), tiny_base)
    mixed = {**made.files, "style_file": trained["style_file"]}
    refused(lambda: train(made.config("second", tmp_path / "mixed", **mixed)), "do not compose")
    refused(lambda: train(made.config("second", tmp_path / "sdxl", **pair(trained))), made.base)
    assert not Path(out).exists()


def pair(files: dict[str, str]) -> dict[str, str]:
    return {name: path for name, path in files.items() if name != "lora_file"}


def test_models_of_1_and_2_do_not_share_files(settings, tmp_path):
    one, two = (tiny_sd15_pipeline(unet=unet) for unet in ({}, V2))
    for name, pipe in (("one", one), ("two", two)):
        pipe.save_pretrained(tmp_path / name)
    config = settings("content", tmp_path / "content", base_model=str(tmp_path / "one"), steps=1)
    path = str(train(config).path)
    refused(lambda: attach(open_backbone(str(tmp_path / "two")), content_file=path), path, tmp_path / "two")


@pytest.mark.parametrize(
    ("unet", "prediction", "architecture", "version"),
    [
        ({}, "epsilon", "stable-diffusion-v1", "sd_v1"),
        ({}, "v_prediction", "stable-diffusion-v1", "sd_v1_v"),
        (V2, "epsilon", "stable-diffusion-v2-512", "sd_v2"),
        (V2, "v_prediction", "stable-diffusion-v2-768-v", "sd_v2_v"),
    ],
)
def test_the_names_of_base_models_are_those_that_other_tools_use(unet, prediction, architecture, version):
    stamp = SD15.stamp(tiny_sd15_pipeline(unet=unet).unet, prediction)
    assert (stamp["modelspec.architecture"], stamp["ss_base_model_version"]) == (architecture, version)
    assert stamp.get("ss_v2") == ("True" if unet else None)


def test_a_base_model_with_a_safety_checker_loads_without_it(tmp_path):
    """As the published ones are: its weights need not even be there."""
    tiny_sd15_pipeline().save_pretrained(tmp_path / "base")
    index = tmp_path / "base/model_index.json"
    parts = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    index.write_text(json.dumps({**json.loads(index.read_text()), **parts}))
    backbone = open_backbone(str(tmp_path / "base"))
    assert backbone.pipe.safety_checker is None
    assert len(sample(backbone, [PROMPT], [1], steps=1, size=SIZE)) == 1


def test_an_old_scheduler_file_without_a_prediction_type_means_epsilon(tmp_path):
    tiny_sd15_pipeline().save_pretrained(tmp_path / "base")
    path = tmp_path / "base/scheduler/scheduler_config.json"
    config = json.loads(path.read_text())
    del config["prediction_type"]
    path.write_text(json.dumps(config))
    assert SD15.read_prediction_type(str(tmp_path / "base")) == "epsilon"
    assert open_backbone(str(tmp_path / "base")).prediction_type == "epsilon"


def test_what_is_no_plain_base_model_is_refused(tmp_path):
    tiny_sd15_pipeline(unet={"addition_embed_type": "text"}).save_pretrained(tmp_path / "odd")
    refused(lambda: open_backbone(str(tmp_path / "odd")), tmp_path / "odd", "no plain Stable Diffusion")
    tiny_sd15_pipeline(unet={"in_channels": 9}).save_pretrained(tmp_path / "inpainting")
    refused(lambda: open_backbone(str(tmp_path / "inpainting")), tmp_path / "inpainting", "9 channels")
    shutil.rmtree(tmp_path / "odd/scheduler")
    refused(lambda: SD15.read_prediction_type(str(tmp_path / "odd")), tmp_path / "odd", "scheduler")


def test_original_block_names_are_those_of_the_original_checkpoints():
    """At the published shape: Diffusers' reader of such checkpoints takes each of our names for the layer it is of."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(attention_head_dim=(5, 10, 20, 20), cross_attention_dim=1024, **V2)
    spelling = DIALECTS["kohya-original"]
    layers = [
        name
        for name, part in unet.named_modules()
        if isinstance(part, torch.nn.Linear) and ".attentions." in name
    ]
    written = {spelling.write(layer, 2): layer for layer in layers}
    assert None not in written and len(written) == len(layers) > 128
    assert all(spelling.read(name, 2) == layer for name, layer in written.items())
    # The checkpoint's keys; blocks without attention are there too, since they are counted.
    blocks = [*(f"input_blocks.{n}" for n in range(12)), *(f"output_blocks.{n}" for n in range(12))]
    checkpoint = {f"{block}.0.bias": None for block in (*blocks, "middle_block", "middle_block.2")}
    for name, layer in written.items():
        block = re.match(r"lora_unet_(.+?)(?:_(\d+))?_1_", name)
        unit = layer.split(".attentions.")[1].split(".", 1)[1]
        assert name == f"{block[0]}{unit.replace('.', '_')}"
        start = ".".join(filter(None, block.groups()))
        checkpoint[f"{start}.1.{unit}.weight"] = f"{layer}.weight"
    found = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{key}": v for key, v in checkpoint.items()}, unet.config
    )
    assert {key: value for key, value in found.items() if value} == {
        f"{x}.weight": f"{x}.weight" for x in layers
    }
