"""The array job: what its script says and does; two elements of it make what one process makes."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import refused
from libraries import made, two_by_two

from b4m.apps.cli import main
from b4m.studies.library import library


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins on the PATH: srun runs the command, scontrol writes down what it is told."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, line in {"srun": 'exec "$@"', "scontrol": f'echo "$@" >> {tmp_path}/told'}.items():
        (tools / name).write_text(f"#!/bin/bash\n{line}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")


@pytest.fixture
def script(tiny_base, folders, tmp_path, monkeypatch, capsys):
    """script(**changes of the library): the path of its array job of two elements."""
    (tmp_path / "many").mkdir()
    monkeypatch.chdir(tmp_path / "many")

    def written(**changes):
        config = two_by_two(tmp_path, tiny_base, folders, **changes)
        given = ["--output-dir", "out", "--workers", "2", "--write-slurm", str(tmp_path / "jobs")]
        assert main(["library", config.build, *given]) == 0
        sbatch, path = capsys.readouterr().out.split()
        assert sbatch == "sbatch"
        return path

    return written


def element(path, number=0, **env):
    ids = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": str(number)}
    return subprocess.Popen(["bash", path], env={**os.environ, **ids, **env})


def test_the_script_asks_for_its_elements_and_nothing_is_begun(script, tmp_path):
    path = script()
    lines = open(path).read().splitlines()
    asked = [line for line in lines if line.startswith("#SBATCH")]
    assert "#SBATCH --array=0-1" in asked and "#SBATCH --requeue" in asked
    assert lines.index(asked[-1]) < next(n for n, line in enumerate(lines) if not line.startswith("#"))
    assert f"{sys.executable} -m b4m library {tmp_path}/try.yaml --output-dir out --workers 1" in "\n".join(
        lines
    )
    assert not (tmp_path / "many" / "out").exists()


@pytest.mark.parametrize(("status", "told"), [(143, "requeue 7_1\n"), (0, None), (2, None)])
def test_an_element_that_was_stopped_is_queued_again_and_no_other(status, told, script, slurm, tmp_path):
    path = script()
    python = tmp_path / "python"
    python.write_text(f"#!/bin/bash\nexit {status}\n")
    python.chmod(0o755)
    text = open(path).read().replace(sys.executable, str(python))
    open(path, "w").write(text)
    assert element(path, 1).wait() == status
    assert (tmp_path / "told").exists() == bool(told) and (
        not told or (tmp_path / "told").read_text() == told
    )


def test_what_cannot_work_is_one_line(tiny_base, folders, tmp_path, monkeypatch):
    import b4m.studies.engines.slurm as slurm
    from b4m.studies.library import slurm as write

    monkeypatch.chdir(tmp_path)
    config, jobs = two_by_two(tmp_path, tiny_base, folders), str(tmp_path / "jobs")
    refused(lambda: write(config, jobs), "--workers", "elements")
    config = replace(config, workers=2)
    refused(lambda: write(config, str(tmp_path / "a%b")), "a%b", "%")
    monkeypatch.setattr(slurm, "check_locks", lambda root: refuse(root))
    refused(lambda: write(config, jobs), "no locks")
    assert not (tmp_path / "jobs").exists()


def refuse(root):
    from b4m.core.errors import UserError

    raise UserError(f"{root}: no locks")


@pytest.mark.slow
def test_two_elements_side_by_side_make_what_one_process_makes(
    script, slurm, tiny_base, folders, tmp_path, monkeypatch
):
    path = script()
    elements = [element(path, number, OMP_NUM_THREADS="1") for number in range(2)]
    assert [each.wait() for each in elements] == [0, 0]
    (tmp_path / "alone").mkdir()
    monkeypatch.chdir(tmp_path / "alone")
    library(two_by_two(tmp_path, tiny_base, folders))
    assert made(tmp_path / "many") == made(tmp_path / "alone")
    assert not (tmp_path / "told").exists()
