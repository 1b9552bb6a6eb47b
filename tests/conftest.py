"""Fixtures: random pipelines of a few MB, picture folders, a whole run, packages from outside; one CPU thread."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a test must never wait for a network

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import b4m
from b4m.apps.studio import library
from b4m.apps.studio.project import Base, opened
from b4m.config.resolve import resolve
from b4m.config.stages import JOBS
from b4m.config.training import TrainConfig
from b4m.core.errors import UserError
from b4m.methods import directions
from b4m.training.loop import train

torch.set_num_threads(1)
gc.collect()
gc.freeze()  # the libraries' million objects need not be looked through at every collection of a test

SIZE = 16  # pixels; the tiny VAE halves them, so latents are 8 x 8
WORDS = ("a", "photo", "of", "snq", "bear", "picture", "in", "style", "w", "@", "z", "yarn", "house", "chalk")
TINY_UNET = dict(
    sample_size=8,
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    attention_head_dim=(2, 4),
)


def tiny_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with one token per letter, and one per word of WORDS."""
    letters = [chr(code) for code in range(33, 127)]
    vocab = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            pieces = ["".join(pair), *pieces[2:]]
            if pieces[0] not in vocab:
                vocab.append(pieces[0])
                merges.append(pair)
    return CLIPTokenizer({token: index for index, token in enumerate(vocab)}, merges, model_max_length=16)


def tiny_text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=24,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def tiny_pipeline(
    seed: int = 0, widths: tuple[int, int] = (32, 64), **scheduler
) -> StableDiffusionXLPipeline:
    """SDXL in everything but size and skill: random weights, text_time conditioning, cross width 24 + 24."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    text = tiny_text_config(tokenizer)
    unet = UNet2DConditionModel(
        **TINY_UNET,
        block_out_channels=widths,
        cross_attention_dim=48,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    return StableDiffusionXLPipeline(
        tiny_vae(),
        CLIPTextModel(text),
        CLIPTextModelWithProjection(text),
        tokenizer,
        tiny_tokenizer(),
        unet,
        EulerDiscreteScheduler(beta_schedule="scaled_linear", **scheduler),
        add_watermarker=False,
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=SIZE,
    )


def tiny_sd15_pipeline(
    seed: int = 0,
    unet: dict | None = None,
    pipeline: type[StableDiffusionPipeline] = StableDiffusionPipeline,
    **scheduler,
) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x in everything but size and skill. unet: settings that make it another, 2.x for instance."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = {**TINY_UNET, "block_out_channels": (32, 64), "cross_attention_dim": 24, **(unet or {})}
    return pipeline(
        tiny_vae(),
        CLIPTextModel(tiny_text_config(tokenizer)),
        tokenizer,
        UNet2DConditionModel(**config),
        EulerDiscreteScheduler(beta_schedule="scaled_linear", **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A smooth random picture, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR)


def refused(action, *words, limit: int = 700) -> str:
    """The line with which `action` is refused: printable, not endless, with all of `words` in it."""
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and len(message) < limit, message
    for word in words:
        assert str(word) in message, message
    return message


@pytest.fixture(scope="session", autouse=True)
def few_directions():
    """What contents read is measured on two drawings of two steps: every content here would wait for 32 of 12."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(directions, "prompts", lambda: ["a dog", "a red car on grass"])
        patch.setattr(directions, "STEPS", 2)
        yield


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> str:
    """The directory of one tiny random SDXL pipeline."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, str | tuple[str, ...]]:
    """Folders as a user has them: a content of 3 pictures, a style of 2, and two partners of either kind."""
    root = tmp_path_factory.mktemp("pictures")
    names = {
        "content": 3,
        "style": 2,
        "styles/chalk": 1,
        "styles/neon": 2,
        "contents/house": 1,
        "contents/car": 1,
    }
    for group, (name, count) in enumerate(names.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(10 * group + index, (SIZE + 4 * index, SIZE)).save(root / name / f"{index}.png")
    return {
        "content": str(root / "content"),
        "style": str(root / "style"),
        "styles": (str(root / "styles/chalk"), str(root / "styles/neon")),
        "contents": (str(root / "contents/house"), str(root / "contents/car")),
    }


@pytest.fixture(scope="session")
def settings(tiny_base, folders):
    """TrainConfig of a stage on the tiny base, as a function: settings("content", out, steps=3)."""

    def make(stage: str, output_dir, **changes) -> TrainConfig:
        base = {
            "base_model": tiny_base,
            "output_dir": str(output_dir),
            "resolution": SIZE,
            "steps": 3,
        }
        if stage in ("second", "joint"):
            base |= {"content_dir": folders["content"], "style_dir": folders["style"]}
        else:
            partners = folders["styles" if stage == "content" else "contents"]
            base |= {f"{stage}_dir": folders[stage], "partner_dirs": partners, "partner_samples": None}
        if stage != "second":  # whose rank is that of its files
            base["rank"] = 4
        return resolve(JOBS[stage], "embedded", **{**base, **changes})

    return make


@pytest.fixture(scope="session")
def trained(settings, tmp_path_factory) -> dict[str, str]:
    """The files of a whole run on the tiny base, at learning rates that make the effect visible."""
    root = tmp_path_factory.mktemp("trained")
    files = {}
    for stage in ("content", "style"):
        result = train(settings(stage, root / stage, lr=0.05, partner_lr=0.05))
        files[f"{stage}_file"] = str(result.path)
    files["lora_file"] = str(train(settings("second", root / "second", lr=1e-3, **files)).path)
    return files


@pytest.fixture(scope="session")
def outside(tmp_path_factory) -> Path:
    """A folder to put on a process's path: the packages of tests/outside, installed there by pip."""
    root = tmp_path_factory.mktemp("outside")
    # A copy, since pip leaves there what it builds.
    sources = shutil.copytree(Path(__file__).parent / "outside", root / "sources")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    install = [sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(root / "site")]
    subprocess.run([*install, *map(str, sorted(sources.iterdir()))], check=True)
    return root / "site"


def b4m_with(site: Path, *commands: list[str]) -> str:
    """What `python -m b4m` prints for each of `commands`, in a new process that has the packages in `site`."""
    program = (
        "import json, runpy, sys\n"
        "for given in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['b4m', *given]\n"
        "    try: runpy.run_module('b4m', run_name='__main__', alter_sys=True)\n"
        "    except SystemExit as stop: assert not stop.code, given\n"
    )
    path = os.pathsep.join([str(site), str(Path(b4m.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def project(tmp_path):
    """An opened project of the studio, with nothing in it."""
    with opened(tmp_path / "project", Base()) as made:
        yield made


@pytest.fixture
def taught(project, trained):
    """The files of `trained` as cards of that project: {kind: concept}."""
    made = {}
    for kind, file in (("content", "content_file"), ("style", "style_file"), ("lora", "lora_file")):
        concept = library.create(project, kind, f"My {kind}", class_word="bear", trigger="snq")
        goal = library.file_of(project, concept)
        goal.parent.mkdir(parents=True)
        shutil.copyfile(trained[file], goal)
        made[kind] = concept
    return made
