"""The house: a module imports only from levels below its own, packages are imported where they are needed."""

import ast
import sys
from pathlib import Path

import pytest

import b4m

ROOT = Path(b4m.__file__).parent
LEVELS = {  # the table of the design; a helper that a module was split into stands below it
    "errors": -2,
    "fields": -1,  # for everyone
    "presets": -1,
    "dialects": -1,
    "plp": 0,
    "riemannian": 0,
    "config": 0,
    "metrics": 0,
    "storage": 0,
    "process": 0,
    "preprocess": 0,
    "adapter": 1,
    "stacks": 1,
    "objective": 1,
    "images": 1,
    "export_config": 1,
    "measure_config": 1,
    "study_file": 1,
    "lora_file": 1,
    "training_state": 1,
    "lock": 1,
    "extractors": 1,
    "inspection_report": 1,
    "resume": 1,
    "logbook": 1,
    "guard": 1,
    "sdxl": 2,
    "frozen": 2,
    "checkpoint": 2,
    "manifest": 2,
    "footprint": 3,
    "stages": 3,
    "generate": 3,
    "export": 3,
    "inspection": 3,
    "doctor": 3,
    "train": 4,
    "bench_models": 4,
    "bench_profile": 4,
    "bench_report": 4,
    "rivals": 4,
    "report": 4,
    "study_plan": 4,
    "evaluate": 5,
    "bench": 5,
    "study": 6,
    "cli": 7,
}
MODULES = sorted(path for path in ROOT.glob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """Names of the modules of this package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("b4m.") for alias in node.names if alias.name.startswith("b4m.")
            }
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "b4m"):
            module = (node.module or "").removeprefix("b4m").strip(".")
            found |= {module} if module else {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_down(path):
    assert path.stem in LEVELS, "a new module needs a level"
    for name in imports(path):
        assert LEVELS[name] < LEVELS[path.stem], f"{path.stem} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_modules_are_small_and_say_what_they_are_for(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 320
    assert len(ast.get_docstring(ast.parse(text)).splitlines()[0]) > 20


def test_the_loop_fits_one_screen():
    functions = {
        node.name: node
        for node in ast.parse((ROOT / "train.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }
    for name in ("train", "_loop"):
        assert functions[name].end_lineno - functions[name].lineno < 50


def test_help_waits_for_no_big_library():
    top = [
        node
        for node in ast.parse((ROOT / "cli.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {alias.name for node in top for alias in node.names} | {
        getattr(node, "module", None) for node in top
    }
    assert not names & {"torch", "diffusers", "train", "generate", "stages"}


def test_code_is_no_package():
    assert not (
        ROOT.parent.parent / "code" / "__init__.py"
    ).exists()  # it would hide the standard library's `code`
    assert "code" in sys.stdlib_module_names
