"""The doctor: says what would fail, and is right about it."""

import tomllib

import pytest

from b4m.apps import doctor as module
from b4m.apps.cli import main
from b4m.apps.doctor import DoctorConfig, examine


def bad(config: DoctorConfig, load=lambda: None) -> list[str]:
    return [finding.text for finding in examine(config, load) if finding.good is False]


@pytest.fixture
def versions(monkeypatch):
    """What is asked for and what is installed, instead of this machine's."""

    def install(**found):
        monkeypatch.setattr(
            module, "requires", lambda _: ["torch>=2.10", "Pillow>=12.3", 'pytest>=8; extra == "dev"']
        )

        def version(name):
            if name not in found:
                raise module.PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(module, "version", version)

    install(torch="2.13.0+cpu", Pillow="12.3.0")
    return install


def test_a_machine_that_will_do(versions, tiny_base, tmp_path, capsys):
    assert main(["doctor", "--base-model", tiny_base, "--output-dir", str(tmp_path / "new" / "out")]) == 0
    out, err = capsys.readouterr()
    assert "FAILS" not in out and "b4m: error" not in err and list(tmp_path.iterdir()) == []
    for words in (
        "Python 3",
        "torch 2.13.0+cpu (>=2.10)",
        "GPU",
        "memory: ",
        "disk: ",
        f"base model {tiny_base} loads",
    ):
        assert words in out
    assert "ok    pytest" not in out and "FAILS" not in out  # nobody asked for that extra


def test_old_and_missing_packages(versions, tiny_base, tmp_path):
    versions(torch="2.9.1")
    found = bad(DoctorConfig(base_model=tiny_base, output_dir=str(tmp_path)))
    assert found == [
        "torch 2.9.1 (>=2.10); pip install --upgrade 'torch>=2.10'",
        "Pillow >=12.3 is not installed; pip install 'Pillow>=12.3'",
    ]


def test_the_package_repeats_the_lower_bounds_of_pyproject(pytestconfig):
    """Where it is installed as it is now; an older installation says older bounds."""
    project = tomllib.loads((pytestconfig.rootpath / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = {line for line in module.requires("b4m") or [] if "extra" not in line}
    assert installed == {line.replace(" ", "") for line in project["dependencies"]} and len(installed) > 9


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"base_model": "/nowhere/base"}, "/nowhere/base: no such folder"),
        ({"base_model": "nobody/nothing"}, "HF_HUB_OFFLINE"),
        ({"vae": "/nowhere/vae"}, "/nowhere/vae"),
        ({"output_dir": "/proc/b4m"}, "/proc cannot be written to"),
        ({"mixed_precision": "fp16"}, "needs a GPU"),
    ],
)
def test_what_would_fail_is_said(versions, change, word, tiny_base, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    given = {"base_model": tiny_base, "output_dir": str(tmp_path), **change}
    assert (
        main(["doctor", *(w for name, v in given.items() for w in ("--" + name.replace("_", "-"), v))]) == 2
    )
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("FAILS") and word in line]
    assert err == f"b4m: error: {out.count('FAILS')} of the above would fail; each line says what to do\n"


def test_too_little_room_is_said_and_nothing_loaded(versions, tiny_base, tmp_path, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10}))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Disk", (), {"free": 10}))
    memory, disk = bad(DoctorConfig(base_model=tiny_base, output_dir=str(tmp_path)))
    assert "close other programs" in memory and str(tmp_path) in disk


def test_broken_libraries_and_no_installation_are_said(versions, tmp_path, monkeypatch):
    def broken():
        raise ImportError("libc10.so: undefined symbol")

    assert "undefined symbol" in bad(DoctorConfig(output_dir=str(tmp_path)), broken)[0]

    def nowhere(_):
        raise module.PackageNotFoundError

    monkeypatch.setattr(module, "requires", nowhere)
    notes = [f.text for f in examine(DoctorConfig(output_dir=str(tmp_path)), broken) if f.good is None]
    assert "not checked" in notes[0]


def test_a_model_that_is_not_here_yet_is_no_failure(versions, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    findings = list(
        examine(DoctorConfig(base_model="nobody/nothing", output_dir=str(tmp_path)), lambda: None)
    )
    assert findings[-1].good is None and "will be downloaded" in findings[-1].text
