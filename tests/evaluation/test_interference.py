"""`b4m inspect --interference`: the numbers beside passes made by hand, what it writes, what it refuses."""

import json
from statistics import fmean

import pytest
from conftest import refused
from methods.loras import random_lora
from PIL import Image

from b4m.backbones.registry import open_backbone
from b4m.core.errors import UserError
from b4m.evaluation import pair
from b4m.evaluation.interference import interference, interference_table
from b4m.evaluation.pair import joint_prompt
from b4m.evaluation.settings import InspectConfig
from b4m.files.concept import load_concept
from b4m.files.export import export
from b4m.files.lora import save_lora
from b4m.files.settings import ExportConfig
from b4m.maths.plp import FACTORS
from b4m.sampling.attach import attach
from b4m.sampling.states import drawn, predict

LEVELS = 3


@pytest.fixture(autouse=True)
def few_states(monkeypatch):
    monkeypatch.setattr(pair, "LEVELS", LEVELS)


def config(trained, tmp_path, **changes) -> InspectConfig:
    given = {
        "file": trained["content_file"],
        "style_file": trained["style_file"],
        "output": str(tmp_path / "out"),
    }
    return InspectConfig(**{**given, "interference": True, **changes})


def test_it_measures_what_four_passes_say(tiny_base, trained, tmp_path):
    report = interference(config(trained, tmp_path, prompts=("a bear",)))
    backbone = open_backbone(tiny_base)
    states = drawn(backbone, ["a bear"] * 4, range(4), LEVELS)[0]  # the noisiest
    base = predict(backbone, states, 0, 0)
    attach(backbone, trained["content_file"], trained["style_file"])
    c, s, both = (predict(backbone, states, *dials) - base for dials in ((1, 0), (0, 1), (1, 1)))
    power = [v.square().flatten(1).mean(1) for v in (base, c, s, both - c - s)]
    last = report["levels"][-1]
    assert last["timestep"] == states.timestep and len(report["levels"]) == LEVELS
    assert last["content"] == pytest.approx(float((power[1] / power[0]).mean()), rel=1e-3)
    assert last["style"] == pytest.approx(float((power[2] / power[0]).mean()), rel=1e-3)
    assert last["interference"] == pytest.approx(float((power[3] / (power[1] + power[2])).mean()), rel=1e-3)
    assert report["mean"]["style"] == pytest.approx(fmean(level["style"] for level in report["levels"]))
    assert json.loads((tmp_path / "out/interference.json").read_text()) == report
    assert Image.open(tmp_path / "out/interference.png").width > 300
    lines = interference_table(report).splitlines()
    assert len(lines) == LEVELS + 2 and lines[-1].split()[0] == "mean"


def test_on_the_pairs_own_references_and_prompts(trained, folders, tmp_path):
    of_base = interference(config(trained, tmp_path))
    of_images = interference(config(trained, tmp_path, content_dir=folders["content"]))
    assert of_images["states"] == folders["content"] and of_base["states"] == "images of the base model"
    assert of_images["mean"] != of_base["mean"]


def test_the_prompt_that_calls_both(trained):
    facts = [dict(load_concept(trained[f"{kind}_file"]).metadata) for kind in ("content", "style")]
    prompts = [each["prompt"] for each in facts]
    assert prompts[0].startswith("a photo of snq ")
    expected = f"{prompts[0].removeprefix('a photo of ')} {prompts[1].removeprefix('a picture ')}"
    assert joint_prompt(*facts) == expected and "photo" not in expected
    del facts[1]["prompt"]
    refused(lambda: joint_prompt(*facts), "--prompts")


def test_two_loras_are_measured_too(tiny_base, trained, tmp_path):
    """Those that the pair's factors are, at strength 1: the same moves as of the concept files."""
    files = {}
    for kind in FACTORS:
        files[kind] = str(tmp_path / f"{kind}.safetensors")
        export(
            ExportConfig(
                output=files[kind],
                dtype="fp32",
                base_model=tiny_base,
                **{f"{kind}_file": trained[f"{kind}_file"]},
            )
        )
    expected = interference(config(trained, tmp_path, prompts=("a bear",)))["mean"]
    pair_of = {"file": files["content"], "style_file": files["style"], "base_model": tiny_base}
    found = interference(config(trained, tmp_path, prompts=("a bear",), **pair_of))["mean"]
    assert found["content"] == pytest.approx(expected["content"], rel=1e-3)
    assert found["style"] == pytest.approx(expected["style"], rel=1e-3)
    mixed = {**pair_of, "style_file": trained["style_file"]}
    found = interference(config(trained, tmp_path, prompts=("a bear",), **mixed))["mean"]
    assert found["style"] == pytest.approx(expected["style"], rel=1e-3)
    nameless = str(tmp_path / "nameless.safetensors")
    save_lora(nameless, random_lora(tiny_base, 0), {})
    refused(
        lambda: interference(config(trained, tmp_path, **{**pair_of, "style_file": nameless})), "--prompts"
    )


def test_bad_input_writes_nothing(trained, tmp_path):
    with pytest.raises(UserError, match="needs two files"):
        config(trained, tmp_path, style_file=None)
    with pytest.raises(UserError, match="go with --interference"):
        config(trained, tmp_path, interference=False, prompts=("a bear",))
    refused(
        lambda: interference(config(trained, tmp_path, style_file=trained["content_file"])), "holds a content"
    )
    refused(lambda: interference(config(trained, tmp_path, file=trained["lora_file"])), "not a concept file")
    assert not (tmp_path / "out").exists()
