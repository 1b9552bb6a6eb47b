"""The notebook: ten cells that run, one after the other, with another base model by one line."""

import json
from pathlib import Path

import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[1] / "examples" / "b4m.ipynb"
STEPS = "STEPS = None"
BASE = 'BASE = {"preset": "embedded"}'


def cells() -> list[str]:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(**lines: str) -> dict:
    """All cells in one namespace, with lines of theirs changed; what stands on a cell's last line must be shown."""
    space: dict = {}
    for cell in cells():
        for old, new in lines.items():
            cell = cell.replace({"steps": STEPS, "base": BASE}[old], new)
        exec(compile(cell, str(NOTEBOOK), "exec"), space)  # our own file
    return space


def test_it_has_ten_cells_and_what_the_tests_change_stands_there_once():
    assert len(cells()) == 10
    assert all(sum(cell.count(line) for cell in cells()) == 1 for line in (STEPS, BASE))


@pytest.fixture
def beside_examples(tmp_path, monkeypatch):
    """A folder of its own to write to, with the shipped references where the notebook looks for them."""
    (tmp_path / "references").symlink_to(NOTEBOOK.parent / "references")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_it_runs_on_the_embedded_base(tmp_path, beside_examples):
    space = run(steps="STEPS = 2")
    assert {image.size for image in space["turned"]} == {(128, 128)} and len(space["turned"]) == 9
    assert (tmp_path / "outputs/notebook/bear_in_watercolour.safetensors").is_file()
    assert isinstance(space["sheet"](space["turned"], 3), Image.Image)


@pytest.mark.slow
def test_one_line_takes_another_base_model(beside_examples):
    """Its settings for training and drawing reach every call, and none that does not know them."""
    Path("other-base").symlink_to(NOTEBOOK.parent / "world" / "base")
    base = 'BASE = {"preset": "embedded", "base_model": "other-base", "mixed_precision": "no"}'
    assert len(run(steps="STEPS = 1", base=base)["turned"]) == 9
