"""Export in every dialect: stock Diffusers draws the same picture; merging; splitting gives B and D back, exactly."""

import json
import logging
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import draw_with_diffusers
import numpy as np
import pytest
import torch
from conftest import SIZE, refused, tiny_pipeline
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from b4m.apps.cli import main
from b4m.apps.info import describe
from b4m.backbones.registry import open_backbone
from b4m.backbones.sdxl import SDXL
from b4m.core.storage import read_tensors
from b4m.files.concept import load_concept, save_concept
from b4m.files.dialects import DIALECTS
from b4m.files.export import export, split
from b4m.files.lora import load_lora
from b4m.files.settings import ExportConfig, SplitConfig
from b4m.sampling.attach import attach
from b4m.sampling.sample import sample

PROMPT = "a photo of snq bear in w@z yarn style"


def draw(backbone) -> np.ndarray:
    return np.asarray(sample(backbone, [PROMPT], [7], steps=4, size=SIZE)[0], dtype=int)


@pytest.fixture
def options(trained, tiny_base):
    """Settings that export the two concept files of the tiny base."""
    return {
        "base_model": tiny_base,
        "content_file": trained["content_file"],
        "style_file": trained["style_file"],
    }


@pytest.fixture(scope="module")
def pictures(trained, tiny_base):
    """Drawn without, and with our own processors on the two concept files."""
    backbone = open_backbone(tiny_base)
    bare = draw(backbone)
    attach(backbone, trained["content_file"], trained["style_file"])
    return bare, draw(backbone)


def stock(tiny_base) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(tiny_base, add_watermarker=False)


# dialects


@pytest.mark.parametrize("dialect", DIALECTS)
def test_stock_diffusers_draws_the_same_picture(options, pictures, tiny_base, dialect, tmp_path, caplog):
    path = export(
        ExportConfig(output=str(tmp_path / "x.safetensors"), dtype="fp32", dialect=dialect, **options)
    )
    bare, ours = pictures
    pipe = stock(tiny_base)
    logger = logging.getLogger("diffusers")  # which says there what it leaves out
    logger.addHandler(caplog.handler)
    try:
        if dialect == "published":  # Diffusers 0.22 took off the doubled prefix unasked
            pipe.unet.load_lora_adapter(load_file(path), prefix="unet.unet")
        else:
            pipe.load_lora_weights(path)
    finally:
        logger.removeHandler(caplog.handler)
    messages = [record.getMessage() for record in caplog.records]
    assert all("text_encoder" in message for message in messages), messages
    assert np.abs(draw(SDXL(pipe)) - ours).max() <= 1
    assert np.abs(bare - ours).max() > 4


@pytest.mark.parametrize("dialect", DIALECTS)
def test_our_own_reader_draws_the_same_picture_and_keeps_the_dials(
    options, pictures, tiny_base, dialect, tmp_path
):
    path = export(
        ExportConfig(output=str(tmp_path / "x.safetensors"), dtype="fp32", dialect=dialect, **options)
    )
    backbone = open_backbone(tiny_base)
    attach(backbone, lora_file=str(path))
    assert np.abs(draw(backbone) - pictures[1]).max() == 0


@pytest.mark.parametrize("start", DIALECTS)
def test_a_lora_file_is_exported_from_and_to_every_dialect(options, tiny_base, start, tmp_path):
    one = export(ExportConfig(output=str(tmp_path / "one.safetensors"), dialect=start, **options))
    layers, header = load_lora(one)
    for end in DIALECTS:
        two = tmp_path / f"{end}.safetensors"
        export(ExportConfig(output=str(two), lora_file=str(one), dialect=end, base_model=tiny_base))
        again, found = load_lora(two)
        assert again.keys() == layers.keys()
        assert all(
            torch.equal(a, b) for name in layers for a, b in zip(again[name], layers[name], strict=True)
        )
        assert {key: header[key] for key in header if key.startswith("b4m.")}.items() <= found.items()
        assert found["modelspec.title"] == end  # the file's name, not the other file's
        facts = describe(two)
        assert facts["dialect"] == end and facts["ranks"] == [4] and facts["dtypes"] == ["float16"]
        assert facts["trigger words"] == "snq, w@z"


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("concept", ["content", "style"])
def test_a_concept_and_a_lora_become_one_file_that_draws_as_both_do(
    options, pictures, trained, tiny_base, concept, merge, tmp_path
):
    lora = next(kind for kind in ("content", "style") if kind != concept)
    alone = {"base_model": tiny_base, f"{lora}_file": trained[f"{lora}_file"]}
    plain = export(ExportConfig(output=str(tmp_path / "plain.safetensors"), dtype="fp32", **alone))
    given = {**options, f"{lora}_file": str(plain)}
    turned = {"content_strength": 0.8, "style_strength": 1.2}
    backbone = open_backbone(tiny_base)
    attach(backbone, given["content_file"], given["style_file"])
    both = np.asarray(sample(backbone, [PROMPT], [7], 4, size=SIZE, **turned)[0], dtype=int)
    out = tmp_path / ("unet" if merge else "both.safetensors")
    one = export(ExportConfig(output=str(out), dtype="fp32", merge=merge, **turned, **given))
    pipe = stock(tiny_base)
    if merge:
        pipe.unet = UNet2DConditionModel.from_pretrained(one)
    else:
        pipe.load_lora_weights(one)
        assert describe(one)["trigger words"] == "snq, w@z"
    assert np.abs(draw(SDXL(pipe)) - both).max() <= 1
    assert np.abs(pictures[0] - both).max() > 4


def test_info_prints_what_strangers_wrote_on_one_line_each(tmp_path, capsys):
    path = tmp_path / "x.safetensors"
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 4), f"{layer}.lora_B.weight": torch.ones(4, 2)}
    save_file(tensors, path, metadata={"a\x1b[2J\nb": "c\nd", "ss_tag_frequency": "x" * 5000})
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() and len(line) < 300 for line in lines)
    assert "dialect: diffusers" in lines and "trigger words: not named" in lines


@pytest.mark.parametrize("flags", [{"dialect": "kohya-original"}, {"merge": True}])
def test_a_lora_of_another_base_is_refused(options, flags, tmp_path):
    one = export(ExportConfig(output=str(tmp_path / "one.safetensors"), **options))
    tiny_pipeline(widths=(32, 96)).save_pretrained(tmp_path / "other")
    out = tmp_path / ("two" if "merge" in flags else "two.safetensors")
    config = ExportConfig(output=str(out), lora_file=str(one), base_model=str(tmp_path / "other"), **flags)
    refused(lambda: export(config), one, "do not fit the UNet", tmp_path / "other", "attn1.to_k")
    assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ({"output": "x", "merge": False}, ".safetensors"),
        ({"output": "x.safetensors", "merge": True}, "folder"),
        ({"output": "x", "merge": True, "dialect": "kohya"}, "--dialect kohya"),
        ({"output": "x.safetensors", "dialect": "comfy"}, "kohya-original"),
    ],
)
def test_settings_that_cannot_work_are_refused(flags, word):
    refused(lambda: ExportConfig(lora_file="l", **flags), word)


# merging


@pytest.mark.parametrize("source", ["concepts", "lora"])
def test_a_merged_unet_draws_the_same_picture_in_stock_diffusers(
    options, pictures, tiny_base, source, tmp_path
):
    if source == "lora":
        one = export(
            ExportConfig(output=str(tmp_path / "one.safetensors"), dtype="fp32", dialect="kohya", **options)
        )
        options = {"base_model": tiny_base, "lora_file": str(one)}
    folder = export(ExportConfig(output=str(tmp_path / "new/unet"), merge=True, dtype="fp32", **options))
    assert sorted(os.listdir(folder)) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert os.listdir(folder.parent) == ["unet"]
    unet = UNet2DConditionModel.from_pretrained(folder)
    pipe = StableDiffusionXLPipeline.from_pretrained(tiny_base, unet=unet, add_watermarker=False)
    assert np.abs(draw(SDXL(pipe)) - pictures[1]).max() <= 1


@pytest.mark.parametrize(("name", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_merged_weights_are_rounded_once(options, tiny_base, name, dtype, tmp_path):
    folder = export(
        ExportConfig(output=str(tmp_path / "unet"), merge=True, dtype=name, style_strength=0.5, **options)
    )
    lora = export(
        ExportConfig(output=str(tmp_path / "x.safetensors"), dtype="fp32", style_strength=0.5, **options)
    )
    wanted = UNet2DConditionModel.from_pretrained(tiny_base, subfolder="unet").state_dict()
    layers, _ = load_lora(lora)
    for layer, (up, down) in layers.items():
        wanted[f"{layer}.weight"] = wanted[f"{layer}.weight"] + up @ down
    found, header = read_tensors(folder / "diffusion_pytorch_model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key].to(dtype)) for key in wanted)
    assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base" and header["format"] == "pt"
    assert header["modelspec.trigger_phrase"] == "snq, w@z"
    assert tiny_base not in (folder / "config.json").read_text()


def test_merging_never_overwrites_and_leaves_nothing_half_written(
    options, tmp_path, tmp_path_factory, monkeypatch
):
    config = ExportConfig(output=str(tmp_path / "unet"), merge=True, **options)
    quiet = load_concept(options["content_file"])
    loud = {name: 1e6 * tensor for name, tensor in quiet.tensors.items()}
    file = tmp_path_factory.mktemp("loud") / "content.safetensors"
    save_concept(file, replace(quiet, tensors=loud))
    loud = {**options, "output": str(tmp_path / "loud"), "content_file": str(file)}
    refused(lambda: export(ExportConfig(merge=True, **loud)), tmp_path / "loud", "fp16")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", full)
        refused(lambda: export(config), tmp_path / "unet", "No space left")
    assert os.listdir(tmp_path) == []
    (tmp_path / "unet").mkdir()
    refused(lambda: export(config), tmp_path / "unet", "exists already")
    assert os.listdir(tmp_path / "unet") == []


# splitting


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_fused_file_splits_into_the_very_files_it_was_made_from(options, trained, dialect, tmp_path):
    fused = export(
        ExportConfig(output=str(tmp_path / "x.safetensors"), dtype="fp32", dialect=dialect, **options)
    )
    paths = split(SplitConfig(lora_file=str(fused), output_dir=str(tmp_path / "apart")))
    assert [path.name for path in paths] == ["content.safetensors", "style.safetensors"]
    for kind, path in zip(("content", "style"), paths, strict=True):
        made, found = load_concept(trained[f"{kind}_file"]), load_concept(path)
        assert (found.kind, found.spec, found.layers, found.unet_hash) == (
            made.kind,
            made.spec,
            made.layers,
            made.unet_hash,
        )
        assert found.metadata == made.metadata and found.tensors.keys() == made.tensors.keys()
        assert all(torch.equal(found.tensors[name], made.tensors[name]) for name in made.tensors)


def test_the_second_stage_file_splits_and_fuses_to_the_same_lora(trained, tiny_base, tmp_path, capsys):
    out = str(tmp_path / "apart")
    assert main(["split", "--lora-file", trained["lora_file"], "--output-dir", out]) == 0
    content, style = capsys.readouterr().out.split()
    files = ["--content-file", content, "--style-file", style, "--base-model", tiny_base]
    again = str(tmp_path / "again.safetensors")
    assert main(["export", *files, "--dtype", "fp32", "--output", again]) == 0
    one, two = load_lora(trained["lora_file"])[0], load_lora(again)[0]
    assert all(torch.equal(a, b) for name in one for a, b in zip(one[name], two[name], strict=True))
    assert load_concept(content).metadata["trigger"] == "snq"


def test_a_file_that_lost_its_header_splits_with_one_of_the_same_basis(options, trained, tmp_path):
    fused = export(ExportConfig(output=str(tmp_path / "x.safetensors"), dtype="fp32", **options))
    save_file(load_file(fused), tmp_path / "bare.safetensors")
    bare = {"lora_file": str(tmp_path / "bare.safetensors"), "output_dir": str(tmp_path / "apart")}
    refused(lambda: split(SplitConfig(**bare)), bare["lora_file"], "--like")
    split(SplitConfig(**bare, like=trained["style_file"]))
    found, made = load_concept(tmp_path / "apart/content.safetensors"), load_concept(trained["content_file"])
    assert all(torch.equal(found.tensors[name], made.tensors[name]) for name in made.tensors)
    assert (found.spec, found.layers, found.unet_hash) == (made.spec, made.layers, made.unet_hash)


def test_what_was_not_fused_from_the_basis_does_not_split(options, trained, tmp_path):
    fused = export(ExportConfig(output=str(tmp_path / "x.safetensors"), **options))
    concept = load_concept(trained["style_file"])
    save_concept(tmp_path / "other.safetensors", replace(concept, spec=replace(concept.spec, seed=9)))
    config = {"lora_file": str(fused), "output_dir": str(tmp_path / "apart")}
    refused(
        lambda: split(SplitConfig(**config, like=str(tmp_path / "other.safetensors"))), fused, "frozen block"
    )
    assert not (tmp_path / "apart").exists()


# the release that the published code was written for


def old_diffusers(folder: Path) -> str:
    """The Python of a new environment with Diffusers 0.22.0; skips the test where it cannot be made."""
    packages = "diffusers==0.22.0 transformers==4.35.2 peft==0.6.2 accelerate==0.24.1 huggingface_hub==0.25.2"
    try:
        venv.create(folder, with_pip=True)
        python = str(folder / "bin" / "python")
        install = [python, "-m", "pip", "install", "-q", *packages.split(), "torch<2.3", "numpy<2"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=1800)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no environment for Diffusers 0.22.0: {error}")
    if done.returncode:
        pytest.skip(f"no environment for Diffusers 0.22.0: {done.stderr.strip().splitlines()[-1]}")
    return python


def drawn_by(python: str, base: str, lora: str, out: Path) -> np.ndarray:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, draw_with_diffusers.__file__, base, lora, str(out)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


@pytest.mark.slow
def test_the_diffusers_of_the_published_code_draws_the_same_picture(options, tiny_base, tmp_path):
    files = {
        dialect: str(
            export(
                ExportConfig(
                    output=str(tmp_path / f"{dialect}.safetensors"), dtype="fp32", dialect=dialect, **options
                )
            )
        )
        for dialect in DIALECTS
    }
    today = drawn_by(sys.executable, tiny_base, files["diffusers"], tmp_path / "today.npy")
    bare = drawn_by(sys.executable, tiny_base, "none", tmp_path / "bare.npy")
    assert np.abs(today - bare).max() > 4 / 255
    python = old_diffusers(tmp_path / "old")
    for dialect, file in files.items():
        then = drawn_by(python, tiny_base, file, tmp_path / f"{dialect}.npy")
        assert np.abs(then - today).max() <= 1 / 255, dialect


def test_the_drawing_script_of_the_slow_test_works_today(options, tiny_base, tmp_path):
    path = export(ExportConfig(output=str(tmp_path / "x.safetensors"), dtype="fp32", **options))
    draw_with_diffusers.main(tiny_base, str(path), str(tmp_path / "a.npy"))
    draw_with_diffusers.main(tiny_base, "none", str(tmp_path / "b.npy"))
    assert np.abs(np.load(tmp_path / "a.npy") - np.load(tmp_path / "b.npy")).max() > 4 / 255


def test_the_header_is_that_of_its_dialect(options, tmp_path):
    for dialect, spelling in DIALECTS.items():
        path = export(
            ExportConfig(output=str(tmp_path / f"{dialect}.safetensors"), dialect=dialect, **options)
        )
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
        assert header["modelspec.implementation"] == spelling.implementation
        assert header["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert set(json.loads(header["ss_tag_frequency"])) == {"1_snq", "1_w@z"}
