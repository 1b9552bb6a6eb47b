"""The ComfyUI nodes: the weights that `b4m export` gives, on a stand-in of ComfyUI and on ComfyUI itself."""

import asyncio
import filecmp
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from comfy_stand_in import NODES, load_nodes, model_of
from conftest import tiny_pipeline
from safetensors.torch import load_file, save_file

from b4m.config.resolve import resolve
from b4m.files.export import export
from b4m.files.settings import ExportConfig
from b4m.training.loop import train

ROOT = Path(__file__).parents[2]
STRENGTHS = {"content_strength": 0.7, "style_strength": 1.3}
EVEN = {"content_strength": 1.0, "style_strength": 1.0}
WORDS = "a photo of snq object in w@z art style"


@pytest.fixture(scope="module")
def loras(trained, tiny_base, tmp_path_factory) -> Path:
    """ComfyUI's folder of LoRAs, with the tiny base's files under short names and what `b4m export` makes of them."""
    folder = tmp_path_factory.mktemp("loras")
    for name in ("content_file", "style_file", "lora_file"):
        (folder / f"{name}.safetensors").write_bytes(Path(trained[name]).read_bytes())
    concepts = {name: trained[name] for name in ("content_file", "style_file")}
    fused = {"lora_file": trained["lora_file"]}

    def exported(name, **settings):
        output = folder / f"{name}.safetensors"
        export(resolve(ExportConfig, "embedded", base_model=tiny_base, output=str(output), **settings))

    exported("pair", **concepts, **STRENGTHS, dialect="kohya", dtype="fp32")
    exported("dialled", **fused, **STRENGTHS, dialect="kohya", dtype="fp32")
    exported("original", **fused, dialect="kohya-original", dtype="fp32")
    exported("half", **fused, dialect="kohya", dtype="fp16")
    return folder


@pytest.fixture(scope="module")
def nodes(loras):
    return load_nodes(loras).nodes


@pytest.fixture(scope="module")
def model(tiny_base):
    return model_of(tiny_pipeline().unet)


def pair(nodes, model, content="content_file", style="style_file", **strengths):
    files = {"content_file": f"{content}.safetensors", "style_file": f"{style}.safetensors"}
    return nodes.ContentInStyle.execute(model, **files, **{**STRENGTHS, **strengths}).result


def fused(nodes, model, name="lora_file", **strengths):
    return nodes.FusedFile.execute(model, f"{name}.safetensors", **{**STRENGTHS, **strengths}).result


def loaded(model, nodes, loras, name):
    """What ComfyUI's own loader makes of a file in kohya's names at strength 1."""
    return nodes.comfy.sd.load_lora_for_models(model, None, load_file(loras / f"{name}.safetensors"), 1.0, 0)[
        0
    ]


def refused(action, *words) -> None:
    """As conftest's, for the error class of the copied files."""
    with pytest.raises(sys.modules["b4m_nodes"].reading.UserError) as caught:
        action()
    message = str(caught.value)
    assert message.isprintable() and all(word in message for word in words), message


def same(one, other) -> bool:
    ours, theirs = one.patched(), other.patched()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_the_nodes_run_is_b4ms_own_code():
    copies = sorted(
        path.relative_to(NODES / "b4m") for path in (NODES / "b4m").rglob("*.py") if path.stat().st_size
    )
    assert len(copies) == 6
    for path in copies:
        assert filecmp.cmp(NODES / "b4m" / path, ROOT / "src" / "b4m" / path, shallow=False), (
            f"run {NODES}/copy.sh"
        )


def test_two_files_are_the_bits_of_their_export(nodes, model, loras):
    put, prompt = pair(nodes, model)
    assert same(put, loaded(model, nodes, loras, "pair")) and not same(put, model)
    assert prompt == WORDS
    assert not same(put, pair(nodes, model, style_strength=0.5)[0])


def test_a_fused_file_is_the_bits_of_its_export(nodes, model, loras):
    put, prompt = fused(nodes, model)
    assert same(put, loaded(model, nodes, loras, "dialled"))
    assert prompt == WORDS
    assert same(fused(nodes, model, "half", **EVEN)[0], loaded(model, nodes, loras, "half"))


def test_a_fused_file_is_read_in_every_name_that_its_export_has(nodes, model):
    assert same(fused(nodes, model)[0], fused(nodes, model, "original")[0])
    assert same(fused(nodes, model, **EVEN)[0], fused(nodes, model, "original", **EVEN)[0])


def test_both_dials_at_zero_leave_the_model(nodes, model):
    nothing = {"content_strength": 0.0, "style_strength": 0.0}
    assert same(pair(nodes, model, **nothing)[0], model) and same(fused(nodes, model, **nothing)[0], model)


def test_the_model_that_was_given_is_not_changed(nodes, model):
    pair(nodes, model)
    assert not model.patches


def test_a_file_that_changes_is_loaded_again(nodes, loras, tmp_path):
    given = {
        "content_file": "content_file.safetensors",
        "style_file": "style_file.safetensors",
        "model": None,
    }
    before = nodes.ContentInStyle.fingerprint_inputs(**given)
    assert before == nodes.ContentInStyle.fingerprint_inputs(**given)
    os.utime(loras / "style_file.safetensors", (1, 1))
    assert before != nodes.ContentInStyle.fingerprint_inputs(**given)


def test_the_schema_is_version_three(nodes, loras):
    module = sys.modules["b4m_nodes"]
    found = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    schemas = [node.define_schema() for node in found]
    assert [schema.node_id for schema in schemas] == ["B4MContentInStyle", "B4MFusedFile"]
    for schema, node in zip(schemas, found, strict=True):
        assert [given.id for given in schema.inputs] == [
            *node.execute.__code__.co_varnames[1:][: len(schema.inputs)]
        ]
        combos = [given for given in schema.inputs if given.type == "Combo"]
        assert all("pair.safetensors" in combo.options for combo in combos)


def test_the_folder_installs_nothing():
    settings = tomllib.loads((NODES / "pyproject.toml").read_text())
    assert settings["project"]["dependencies"] == [] and settings["tool"]["comfy"]["DisplayName"] == "B4M"
    assert not [*NODES.rglob("requirements*.txt"), *NODES.rglob("install.py")]


def test_files_that_do_not_belong_are_one_line(nodes, model, loras, settings, tmp_path, trained):
    refused(lambda: pair(nodes, model, content="style_file"), "a style was given as the content")
    refused(lambda: pair(nodes, model, content="lora_file"), "not a concept file")
    refused(lambda: fused(nodes, model, "content_file"), "not a fused file", "the node for two files")
    other = train(settings("style", tmp_path / "other", basis_seed=5, steps=1)).path
    (loras / "other.safetensors").write_bytes(other.read_bytes())
    refused(lambda: pair(nodes, model, style="other"), "do not compose", "seed 0 against 5")
    smaller = model_of(tiny_pipeline(widths=(16, 32)).unet)
    refused(lambda: pair(nodes, smaller), "load the base model")
    refused(lambda: fused(nodes, smaller), "load the base model")
    tensors = load_file(trained["lora_file"])
    name = next(iter(tensors))
    save_file({name: tensors[name]}, loras / "plain.safetensors")
    refused(lambda: fused(nodes, model, "plain"), "not a fused file")
    cut = loras / "cut.safetensors"
    cut.write_bytes(Path(trained["content_file"]).read_bytes()[:-4])
    refused(lambda: pair(nodes, model, content="cut"), "cut.safetensors")


def test_a_model_of_another_kind_is_one_line(nodes, model, loras):
    other = model_of(tiny_pipeline().unet)
    other.unet_config = {"names": {}}
    refused(lambda: pair(nodes, other), "this model lacks 56 of its 56 layers")


@pytest.mark.slow
@pytest.mark.skipif("COMFYUI" not in os.environ, reason="COMFYUI names no folder with ComfyUI's source")
def test_on_comfyui_itself(model, loras, tmp_path):
    """Its loader of custom nodes, its model, its LoRA loader, its arithmetic; and the stand-in's beside it.

    COMFYUI: its folder; COMFYUI_PYTHON: the Python that runs it, where that is another than this one.
    """
    save_file({name: tensor.clone() for name, tensor in model.weights.items()}, tmp_path / "unet.safetensors")
    program = Path(__file__).with_name("in_comfyui.py")
    ran = subprocess.run(
        [
            os.environ.get("COMFYUI_PYTHON", sys.executable),
            str(program),
            os.environ["COMFYUI"],
            str(NODES),
            str(loras),
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["same"] == {"pair": True, "fused": True} and not told["imported"]
    names = {k: v for k, v in model.unet_config["names"].items() if ".attn" in k and k.endswith(".weight")}
    assert names.items() <= told["names"].items()
