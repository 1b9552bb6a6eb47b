"""Which family a base model belongs to: by its model_index.json, before anything big is read."""

import json

import pytest
from conftest import refused
from packages import installed

from b4m.backbones.registry import FAMILIES, family_of, open_backbone
from b4m.backbones.sd15 import SD15
from b4m.backbones.sdxl import SDXL

THEIRS = """
class Theirs:
    family = "theirs"

    @classmethod
    def reads(cls, index):
        return index["_class_name"] == "TheirPipeline"

    @classmethod
    def load(cls, base_model, vae, dtype):
        return base_model, vae, str(dtype)
"""


@pytest.fixture
def base(tmp_path):
    """A folder that says that it is a pipeline of this class, and holds nothing else."""

    def make(pipeline: object) -> str:
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base/model_index.json").write_text(json.dumps({"_class_name": pipeline}))
        return str(tmp_path / "base")

    return make


def test_the_index_alone_says_which_family_it_is(base, tiny_base):
    assert family_of(base("StableDiffusionXLPipeline")) is SDXL is family_of(tiny_base)
    assert family_of(base("StableDiffusionPipeline")) is SD15


def test_every_family_is_registered_under_its_own_name():
    assert FAMILIES.names()[:2] == ["sdxl", "sd15"]
    for name in FAMILIES.names():
        assert FAMILIES.get(name).family == name


@pytest.mark.parametrize("pipeline", ["FluxPipeline", ["evil", "Evil"], None])
def test_an_unknown_family_is_refused_with_the_known_ones(base, pipeline):
    folder = base(pipeline)
    refused(lambda: family_of(folder), folder, f"it is a {pipeline}", "sdxl, sd15")
    refused(lambda: open_backbone(folder), folder, "sdxl, sd15")


@pytest.mark.parametrize("name", ["/nowhere/base", "./base", "some/where/base", "word"])
def test_a_folder_that_is_not_there_is_refused(name):
    refused(lambda: family_of(name), f"base model {name}", "no such folder", "owner/name")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"a": 1}', "\xff"])
def test_an_index_that_is_missing_or_broken_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "model_index.json").write_text(text, encoding="latin-1")
    refused(lambda: family_of(str(tmp_path)), tmp_path, "model_index.json is missing or broken")


def test_another_package_brings_a_family(base, tmp_path, tiny_base):
    folder = base("TheirPipeline")
    with installed(tmp_path / "site", "b4m.backbones", THEIRS, theirs="Theirs"):
        assert family_of(folder).family == "theirs"
        assert open_backbone(folder, "v", "bf16") == (folder, "v", "torch.bfloat16")
        refused(lambda: family_of(base("FluxPipeline")), "sdxl, sd15, theirs")
    refused(lambda: family_of(base("TheirPipeline")), "it is a TheirPipeline")


def test_a_package_that_is_broken_keeps_no_known_model_from_its_family(base, tmp_path, tiny_base):
    with installed(tmp_path / "site", "b4m.backbones", "import nothing_of_this_name", theirs="Theirs"):
        assert family_of(tiny_base) is SDXL
        refused(lambda: family_of(base("FluxPipeline")), "model family 'theirs'", "nothing_of_this_name")
