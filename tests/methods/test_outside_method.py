"""A method in a package of its own (tests/outside/b4m_scale): found by name, and as good as one of ours."""

import sys

import numpy as np
import pytest
from conftest import SIZE, b4m_with, refused, tiny_pipeline
from contract import Contract, Watched, config_of, watch
from PIL import Image

from b4m.apps.info import describe
from b4m.backbones.registry import open_backbone
from b4m.core import registry
from b4m.files.opening import open_any
from b4m.methods.registry import job_named, method
from b4m.sampling.attach import attach


@pytest.fixture
def installed(outside, monkeypatch):
    """The package on this process's path, for a test."""
    monkeypatch.syspath_prepend(outside)
    registry._entries.cache_clear()
    yield
    registry._entries.cache_clear()


@pytest.fixture(scope="module")
def contract(tiny_base, folders, tmp_path_factory) -> Contract:
    other = tmp_path_factory.mktemp("other")
    tiny_pipeline(widths=(32, 96)).save_pretrained(other)
    return Contract(tiny_base, str(other), folders["content"])


@pytest.fixture
def watched(installed, tiny_base, folders, tmp_path) -> Watched:
    known = {"base_model": tiny_base, "content_dir": folders["content"]}
    return watch(config_of(job_named("scale", None), tmp_path / "scale", known))


def test_it_keeps_the_contract(contract, watched, tmp_path):
    contract.starts_where_it_should(watched.config)
    contract.moves_what_it_names(watched)
    contract.resumes(watched, tmp_path / "again")
    contract.saves_what_it_learned(watched)
    contract.refuses_wrong_files(watched.result, tmp_path)


def test_without_its_package_its_file_is_known_but_not_used(watched, tiny_base, monkeypatch, outside):
    opened = open_any(watched.result)
    assert (opened.kind, opened.method, opened.role) == ("method", "scale", "lora")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(outside)])
    registry._entries.cache_clear()
    lora = {"lora_file": str(watched.result)}
    refused(lambda: attach(open_backbone(tiny_base), **lora), watched.result, "method scale", "install")
    refused(lambda: method("scale"), "scale", "b4m, composed")
    assert describe(watched.result)["type"] == "file of the method scale"


def test_the_command_line_trains_draws_and_describes(outside, tiny_base, folders, tmp_path):
    common = ["--base-model", tiny_base, "--preset", "embedded"]
    result = tmp_path / "scale/scale.safetensors"
    train = [
        "train",
        "scale",
        *common,
        "--content-dir",
        folders["content"],
        "--output-dir",
        str(result.parent),
    ]
    train += ["--resolution", str(SIZE), "--steps", "2", "--lr", "0.3", "--preview-every", "1"]
    draw = ["generate", *common, "--lora-file", str(result), "--prompts", "a photo of snq bear"]
    # The preset guides against the base, which wants a strength for each sample; this method has one for all.
    draw += ["--size", str(SIZE), "--steps", "2", "--negative", "adapted"]
    bare = [*draw, "--content-strength", "0", "--style-strength", "0", "--output-dir", str(tmp_path / "bare")]
    study = tmp_path / "study.yaml"
    study.write_text(
        f"title: scales\nrows: {{ours: {{}}, theirs: {{method: scale}}}}\nprompts: ['{{content}}']\n"
        f"contents: [{folders['content']}]\nstyles: [{folders['style']}]\nsettings: {{steps: 2}}\n"
        f"partner_styles: [{folders['style']}]\npartner_contents: [{folders['content']}]\n"
    )
    printed = b4m_with(
        outside,
        train,
        [*draw, "--output-dir", str(tmp_path / "drawn")],
        bare,
        ["info", str(result)],
        ["study", str(study), "--dry-run"],
    )
    assert f"{result}\n" in printed and "type: file of the method scale" in printed
    assert "steps: 2" in printed and "scale         1,      1 to do" in printed
    one, other = (np.asarray(Image.open(tmp_path / f"{name}/000_seed77.png")) for name in ("drawn", "bare"))
    assert one.shape == (SIZE, SIZE, 3) and (one != other).any()
    assert len(list((result.parent / "previews").iterdir())) == 2
