"""The one door to trained files: each kind is told and verified, and what cannot play a role is refused."""

from pathlib import Path

import pytest
import torch
from conftest import refused
from safetensors.torch import load_file, save_file
from torch import nn

from b4m.backbones.latent_diffusion import denoiser_hash
from b4m.backbones.registry import family_of, open_backbone
from b4m.core.storage import read_tensors, write_tensors
from b4m.files.concept import load_concept
from b4m.files.dialects import DIALECTS
from b4m.files.fused import spec_metadata
from b4m.files.lora import load_lora, save_lora
from b4m.files.opening import BASE, DIGEST, METHOD, ROLE, open_any, open_role, save_method_file
from b4m.maths.plp import BasisSpec
from b4m.sampling.attach import attach

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TENSORS = {"content/a": torch.arange(6.0).reshape(2, 3), "content/b": torch.ones(3)}


@pytest.fixture(scope="module")
def denoiser(tiny_base) -> nn.Module:
    return family_of(tiny_base).empty_denoiser(tiny_base)


@pytest.fixture(scope="module")
def files(trained, denoiser, tmp_path_factory) -> dict[str, str]:
    """One file of every kind, by what it is."""
    folder = tmp_path_factory.mktemp("kinds")
    save_lora(folder / "lora.safetensors", {LAYER: (torch.ones(6, 2), torch.ones(2, 6))}, {"title": "theirs"})
    for name, role in (("method", "lora"), ("method of a content", "content")):
        save_method_file(
            folder / f"{name}.safetensors", "scale", TENSORS, denoiser, {"prompt": "größer"}, role
        )
    return {
        "content": trained["content_file"],
        "style": trained["style_file"],
        "fused": trained["lora_file"],
        "LoRA": str(folder / "lora.safetensors"),
        "method": str(folder / "method.safetensors"),
        "method of a content": str(folder / "method of a content.safetensors"),
    }


# what a file is


@pytest.mark.parametrize("kind", ["content", "style"])
def test_a_concept_file(files, kind):
    opened, expected = open_any(files[kind]), load_concept(files[kind])
    assert (opened.kind, opened.role, opened.method, opened.where) == (kind, kind, "b4m", files[kind])
    assert opened.spec == opened.concept.spec == expected.spec
    assert opened.concept.tensors.keys() == expected.tensors.keys() and not opened.layers
    assert all(torch.equal(opened.concept.tensors[name], expected.tensors[name]) for name in expected.tensors)
    assert opened.tensors.keys() == load_file(files[kind]).keys()


def test_a_fused_file(files):
    opened, (layers, metadata) = open_any(files["fused"]), load_lora(files["fused"])
    assert (opened.kind, opened.role, opened.method, opened.dialects) == (
        "fused",
        "lora",
        "b4m",
        ("diffusers",),
    )
    assert (
        opened.spec == BasisSpec(rank=4, ratio=0.25, scale=8.0, inputs="principal") and opened.concept is None
    )
    assert opened.metadata == metadata and opened.layers.keys() == layers.keys()
    for name, pair in layers.items():
        assert all(torch.equal(a, b) for a, b in zip(opened.layers[name], pair, strict=True))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_lora_from_anywhere(tmp_path, dialect):
    path = tmp_path / "x.safetensors"
    save_lora(path, {LAYER: (torch.ones(6, 2), torch.ones(2, 6))}, {}, dialect=dialect)
    opened = open_any(path)
    assert (opened.kind, opened.role, opened.method, opened.dialects) == ("LoRA", "lora", "lora", (dialect,))
    assert list(opened.layers) == [LAYER] and opened.spec is None and opened.concept is None


def test_a_fused_file_that_does_not_say_which_layers_it_adapts_is_put_on_as_any_lora(tmp_path):
    path = tmp_path / "x.safetensors"
    save_lora(path, {LAYER: (torch.ones(6, 4), torch.ones(4, 6))}, spec_metadata(BasisSpec(rank=4)))
    opened = open_any(path)
    assert (opened.kind, opened.method, opened.spec) == ("fused", "lora", BasisSpec(rank=4))


@pytest.mark.parametrize(("name", "role"), [("method", "lora"), ("method of a content", "content")])
def test_a_file_of_a_method(files, denoiser, name, role):
    opened = open_any(files[name])
    assert (opened.kind, opened.role, opened.method) == ("method", role, "scale")
    assert opened.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(opened.tensors[key], TENSORS[key]) for key in TENSORS)
    assert opened.metadata["b4m.prompt"] == "größer" and opened.metadata[BASE] == denoiser_hash(denoiser)
    assert (opened.concept, opened.spec, opened.layers, opened.dialects) == (None, None, {}, ())


def test_a_method_may_not_name_its_file_after_another(tmp_path, denoiser):
    """What is written of the method, the role and the base model is what the call says."""
    path = tmp_path / "x.safetensors"
    save_method_file(path, "scale", TENSORS, denoiser, {"method": "b4m", "role": "style", "unet_hash": ""})
    assert (open_any(path).method, open_any(path).role) == ("scale", "lora")
    assert open_any(path).metadata[BASE] == denoiser_hash(denoiser)


def test_the_same_file_of_a_method_has_the_same_bytes(tmp_path, denoiser):
    for name in "ab":
        save_method_file(tmp_path / name, "scale", TENSORS, denoiser, {"prompt": "p", "steps": "3"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# what is refused


@pytest.mark.parametrize(
    "change",
    [
        {METHOD: "words"},
        {ROLE: "style"},
        {BASE: "f" * 64},
        {DIGEST: "0" * 64},
        {DIGEST: None},
        {"b4m.prompt": "other"},
        {"b4m.prompt": None},
        {"b4m.new": ""},
    ],
)
def test_a_method_file_whose_metadata_changed_is_refused(files, tmp_path, change):
    tensors, metadata = read_tensors(files["method"])
    changed = {name: text for name, text in {**metadata, **change}.items() if text is not None}
    write_tensors(tmp_path / "x.safetensors", tensors, changed)
    refused(lambda: open_any(tmp_path / "x.safetensors"), "x.safetensors", "changed since it was written")
    write_tensors(tmp_path / "x.safetensors", tensors, {**metadata, "title": "another tool's"})
    assert open_any(tmp_path / "x.safetensors").method == "scale"


def test_a_method_file_whose_tensors_changed_is_refused(files, tmp_path):
    tensors, metadata = read_tensors(files["method"])
    one = tensors["content/a"]
    for other in (one + 1e-6, one.T.contiguous(), one.half()):
        write_tensors(tmp_path / "x.safetensors", {**tensors, "content/a": other}, metadata)
        refused(lambda: open_any(tmp_path / "x.safetensors"), "changed since it was written")
    for changed in ({"content/a": one}, {**tensors, "content/c": one}):
        write_tensors(tmp_path / "x.safetensors", changed, metadata)
        refused(lambda: open_any(tmp_path / "x.safetensors"), "changed since it was written")


def test_every_flipped_bit_of_a_method_file_is_refused_or_changes_nothing(files, tmp_path):
    data, path = Path(files["method"]).read_bytes(), tmp_path / "x.safetensors"
    whole = open_any(files["method"])
    start, header = data.index(b'"format":"pt"'), 8 + int.from_bytes(data[:8], "little")
    for bit in range(0, 8 * len(data), 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        try:
            opened = open_any(path)
        except Exception:
            refused(lambda: open_any(path), path)
            continue
        assert all(torch.equal(opened.tensors[key], whole.tensors[key]) for key in whole.tensors)
        assert start <= bit // 8 < start + 13 or data[bit // 8 : header].isspace(), bit


ROLES = [
    ("content", "style", "holds a content", "--content-file"),
    ("content", "lora", "holds a content", "--content-file"),
    ("style", "content", "holds a style", "--style-file"),
    ("style", "lora", "holds a style", "--style-file"),
    ("fused", "content", "not a concept file", "train-content"),
    ("fused", "style", "not a concept file", "train-style"),
    ("method", "content", "the method scale", "--lora-file"),
    ("method", "style", "the method scale", "--lora-file"),
    ("method of a content", "style", "the method scale", "--content-file"),
    ("method of a content", "lora", "the method scale", "--content-file"),
]


@pytest.mark.parametrize(("kind", "role", "found", "advice"), ROLES)
def test_a_file_in_a_wrong_role_is_refused(files, kind, role, found, advice):
    refused(lambda: open_role(files[kind], role), files[kind], found, advice)


def test_a_file_in_its_role_opens(files):
    wrong = {(kind, role) for kind, role, *_ in ROLES}
    right = {(kind, role) for kind in files for role in ("content", "style", "lora")} - wrong
    assert {kind for kind, _ in right} == set(files) and len(right) == len(files) + 2
    for kind, role in right:  # a LoRA made elsewhere is what it is given as
        assert open_role(files[kind], role).role == ("lora" if kind == "LoRA" else role)


def test_what_is_none_of_ours_is_refused(files, tmp_path):
    path = tmp_path / "a\nb.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    refused(lambda: open_any(path), "a\\nb", "no LoRA")
    tensors, metadata = read_tensors(files["content"])
    write_tensors(path, tensors, {key: text for key, text in metadata.items() if key != "b4m.kind"})
    refused(lambda: open_any(path), "a\\nb", "no LoRA")
    path.write_bytes(Path(files["method"]).read_bytes()[:-1])
    refused(lambda: open_any(path), "a\\nb", "not a whole safetensors file")
    for missing, word in ((tmp_path, "is a folder"), (tmp_path / "none", "does not exist")):
        for role in ("content", "style", "lora"):
            refused(lambda missing=missing, role=role: open_role(missing, role), missing, word)


# on a base model


@pytest.mark.parametrize("name", ["no-such-method", "\x1b[2J\n", "", "../../x"])
def test_a_file_of_an_unknown_method_is_refused_when_it_is_attached(tiny_base, denoiser, tmp_path, name):
    path = tmp_path / "x.safetensors"
    save_method_file(path, name, TENSORS, denoiser, {})
    assert open_any(path).method == name  # which says what it is, for `b4m info`
    backbone = open_backbone(tiny_base)
    processors = dict(backbone.denoiser.attn_processors)
    refused(
        lambda: attach(backbone, lora_file=str(path)), path, "a file of the method", "install the package"
    )
    assert backbone.attached is None and backbone.denoiser.attn_processors == processors


def test_a_file_of_a_method_on_another_base_model_is_refused(tiny_base, denoiser, tmp_path):
    other = type(denoiser).from_config({**denoiser.config, "in_channels": 8})
    path = tmp_path / "x.safetensors"
    save_method_file(path, "words", TENSORS, other, {})
    refused(lambda: attach(open_backbone(tiny_base), lora_file=str(path)), path, "another UNet", tiny_base)


def test_files_of_different_methods_do_not_go_together(files, tiny_base):
    given = {"content_file": files["method of a content"], "style_file": files["style"]}
    refused(lambda: attach(open_backbone(tiny_base), **given), *given.values(), "scale", "b4m")


@pytest.mark.parametrize("role", ["content", "lora"])
@pytest.mark.parametrize("name", ["b4m", "composed", "joint", "lora"])
def test_tensors_that_name_a_method_with_files_of_its_own_are_refused(
    tiny_base, denoiser, tmp_path, name, role
):
    path = tmp_path / "x.safetensors"
    save_method_file(path, name, TENSORS, denoiser, {}, role)
    backbone = open_backbone(tiny_base)
    refused(lambda: attach(backbone, **{f"{role}_file": str(path)}), path, f"the method {name}")
    assert backbone.attached is None


@pytest.mark.parametrize("fault", ["frozen block", "no tensor for layer", "names no layers"])
def test_a_fused_file_that_misfits_leaves_the_base_model_as_it_was(files, tiny_base, tmp_path, fault):
    layers, metadata = load_lora(files["fused"])
    name = next(name for name in layers if name.endswith("attn2.to_v"))
    if fault == "frozen block":
        layers[name][0][0, 0] += 1
    elif fault == "no tensor for layer":
        del layers[name]
    else:
        metadata["b4m.layers"], fault = "some", "'some'"
    save_lora(tmp_path / "x.safetensors", layers, metadata)
    backbone = open_backbone(tiny_base)
    processors = dict(backbone.denoiser.attn_processors)
    refused(lambda: attach(backbone, lora_file=str(tmp_path / "x.safetensors")), fault)
    assert backbone.attached is None and backbone.denoiser.attn_processors == processors
    attach(backbone, lora_file=files["fused"])  # which it then can be
