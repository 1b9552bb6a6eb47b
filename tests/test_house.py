"""What import-linter cannot see: help without big libraries, a loop on one screen, no package named code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import b4m

ROOT = Path(b4m.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_say_what_they_are_for(path):
    assert len(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).splitlines()[0]) > 20


def test_the_loop_fits_one_screen():
    functions = {
        node.name: node
        for node in ast.walk(ast.parse((ROOT / "training/loop.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    for name in ("train", "run", "take_step", "micro_step"):
        assert functions[name].end_lineno - functions[name].lineno < 50


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train-content", "--help"], ["study", "--help"], ["vote", "make", "--help"]]
)
def test_help_waits_for_no_big_library(arguments):
    """In a process of its own, since this one has them all."""
    program = (
        "import sys; from b4m.apps.flags import build_parser\n"
        f"try: build_parser().parse_args({arguments})\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'accelerate'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stdout


def test_code_is_no_package():
    """It would hide the standard library's `code`, which pdb needs."""
    assert not (ROOT.parents[1] / "code" / "__init__.py").exists()
    assert "code" in sys.stdlib_module_names
