"""`import b4m` in a notebook: light, the same results as the command line, the same one-line errors."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SIZE, refused

import b4m
from b4m.apps import api
from b4m.training.loop import train

PROMPT = "a photo of snq bear in w@z yarn style"


@pytest.fixture(scope="module")
def given(tiny_base) -> dict:
    """What every call on the tiny base is told."""
    return {"preset": "embedded", "base_model": tiny_base}


@pytest.fixture(scope="module")
def model(given, trained):
    files = {name: trained[name] for name in ("content_file", "style_file")}
    return b4m.load(**given, **files, size=SIZE, steps=2, guidance=2.0)


def same(ours, theirs) -> bool:
    return [image.tobytes() for image in ours] == [image.tobytes() for image in theirs]


def test_importing_is_light():
    program = "import sys, b4m; dir(b4m); print({'torch', 'diffusers', 'numpy', 'yaml'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_every_name_is_there_and_documented():
    for name in set(b4m.__all__) - {"__version__"}:
        assert inspect.getdoc(getattr(b4m, name)), name
    assert set(b4m.__all__) <= set(dir(b4m))
    with pytest.raises(AttributeError, match="nonsense"):
        b4m.nonsense  # noqa: B018


def test_type_checkers_see_what_is_imported_late():
    tree = ast.parse(Path(b4m.__file__).read_text(encoding="utf-8"))
    late = next(node for node in tree.body if isinstance(node, ast.If)).body[0]
    assert {alias.name for alias in late.names} == set(b4m.__all__) - {"__version__", "UserError"}
    assert (Path(b4m.__file__).parent / "py.typed").exists()


def test_trainings_are_those_of_the_command_line(given, settings, folders, tmp_path):
    common = {**given, "resolution": SIZE, "steps": 2}
    first = {**common, "rank": 4}
    images = {"content_dir": folders["content"], "style_dir": folders["style"]}
    content = b4m.train_content(
        **first, content_dir=folders["content"], partner_dirs=folders["styles"], output_dir=tmp_path / "c"
    )
    style = b4m.train_style(
        **first, style_dir=folders["style"], partner_dirs=folders["contents"], output_dir=tmp_path / "s"
    )
    fused = b4m.second_stage(
        **common, **images, content_file=content, style_file=style, output_dir=tmp_path / "f"
    )
    joint = b4m.train("joint", **first, **images, output_dir=tmp_path / "j")
    assert [path.name for path in (content, style, fused, joint)] == [
        "content.safetensors", "style.safetensors", *["pytorch_lora_weights.safetensors"] * 2
    ]  # fmt: skip
    theirs = train(settings("content", tmp_path / "theirs", steps=2, partner_samples=1)).path
    assert content.read_bytes() == theirs.read_bytes()


def test_a_model_draws_and_dials(model):
    images = model.draw([PROMPT, "a photo of snq bear"], seeds=[0, 1])
    assert len(images) == 4 and images[0].size == (SIZE, SIZE)
    assert same(model.draw(PROMPT, seeds=1), images[1:2])
    assert not same(model.draw(PROMPT, 1, style_strength=0.0), images[1:2])
    assert type(model.pipe).__name__ == "StableDiffusionXLPipeline"


def test_files_come_and_go(model, trained, given):
    pair = {name: trained[name] for name in ("content_file", "style_file")}
    both = model.draw(PROMPT)
    base = model.attach().draw(PROMPT)
    assert same(base, b4m.load(**given, size=SIZE, steps=2, guidance=2.0).draw(PROMPT))
    assert not same(base, both)
    three = model.attach(**pair, more_files=[trained["lora_file"]])
    assert not same(three.draw(PROMPT), both)
    assert not same(three.draw(PROMPT, more_strengths=[0.0]), three.draw(PROMPT))
    assert same(model.attach(**pair).draw(PROMPT), both)


def test_generate_draws_what_a_model_draws_and_writes_when_told(model, trained, given, tmp_path):
    asked = dict(prompts=[PROMPT], seeds=[0, 1], size=SIZE, steps=2, guidance=2.0)
    pair = {name: trained[name] for name in ("content_file", "style_file")}
    images = b4m.generate(**given, **pair, **asked)
    assert same(images, model.draw(PROMPT, [0, 1])) and not list(tmp_path.iterdir())
    assert same(b4m.generate(**given, **pair, **asked, output_dir=tmp_path, grid=True), images)
    assert {path.name for path in tmp_path.iterdir()} == {"000_seed0.png", "001_seed1.png", "grid.png"}


def test_export_and_evaluate(trained, given, folders, tmp_path):
    out = tmp_path / "pair.safetensors"
    assert b4m.export(**given, lora_file=trained["lora_file"], output=out, dialect="kohya") == out
    scores = b4m.evaluate(
        **given, lora_file=out, prompts=[PROMPT], seeds=[0], size=SIZE, steps=1, output_dir=tmp_path / "e",
        content_dir=folders["content"], style_dir=folders["style"],
    )  # fmt: skip
    assert scores["summary"]


def test_mistakes_are_one_line_and_write_nothing(model, given, tmp_path):
    out = tmp_path / "out"
    refused(lambda: b4m.train_content(**given, output_dir=out), "--content-dir is missing")
    refused(lambda: b4m.train_style(**given, output_dir=out, styles="a"), "unknown setting 'styles'")
    refused(lambda: b4m.train("b4m:third", **given), "content", "second")
    refused(lambda: b4m.load(base_model=given["base_model"]), "--preset")
    refused(lambda: model.draw(PROMPT, base_model="elsewhere"), "base_model")
    refused(lambda: model.draw(PROMPT, strength=2), "unknown setting 'strength'")
    assert not out.exists() and b4m.UserError is api.UserError
