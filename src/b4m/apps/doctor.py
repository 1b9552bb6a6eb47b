"""A look at the machine: what would fail is said, with what to do about it, before it fails."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ..config.fields import ModelName, OutputPath, check, setting
from ..config.presets import EMBEDDED, MODEL
from ..core.errors import UserError
from ..core.where import locate

PYTHON = (3, 11)
STATES = 3  # two are kept while a third is written
GIGABYTE = 1e9


@dataclass(frozen=True)
class DoctorConfig:
    """What is going to be used. Raises UserError for a value that cannot work."""

    base_model: ModelName = setting(f"the model to be customized: {MODEL}", EMBEDDED)
    vae: ModelName | None = setting(f"an autoencoder that replaces the base model's: {MODEL}", None)
    output_dir: OutputPath = setting("folder that results will be written to", "outputs")
    mixed_precision: str = setting("precision to be used", "no", choices=("no", "bf16", "fp16"))

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Finding:
    """One line. good: True is fine, False will fail, None is worth knowing."""

    good: bool | None
    text: str

    def __str__(self) -> str:
        return {True: "ok    ", False: "FAILS ", None: "note  "}[self.good] + self.text


def doctor(config: DoctorConfig, load: Callable[[], None]) -> None:
    """Print what was found, one line each. Raises UserError if anything would fail. load: imports the libraries."""
    bad = 0
    for finding in examine(config, load):
        print(finding, flush=True)
        bad += finding.good is False
    if bad:
        raise UserError(f"{bad} of the above would fail; each line says what to do")


def examine(config: DoctorConfig, load: Callable[[], None]) -> Iterator[Finding]:
    """Every check, cheapest first; where the libraries cannot be imported no model is looked at."""
    yield _python()
    yield from _packages()
    yield from _folder(Path(config.output_dir))
    try:
        load()
        import torch

        from ..backbones.registry import open_backbone
    except Exception as error:  # a broken installation may raise anything
        yield Finding(False, f"the libraries cannot be imported ({_line(error)}); install b4m again")
        return
    yield from _device(torch, config.mixed_precision)

    def try_out(base: str, vae: str | None) -> None:
        open_backbone(base, vae, config.mixed_precision)

    yield from _model(config, try_out)


def _python() -> Finding:
    found, wanted = (".".join(map(str, numbers)) for numbers in (sys.version_info[:3], PYTHON))
    return Finding(sys.version_info >= PYTHON, f"Python {found}; {wanted} or newer is needed")


def _packages() -> Iterator[Finding]:
    """What pyproject.toml asks for, as the installed package repeats it."""
    from packaging.requirements import Requirement

    try:
        lines = requires("b4m") or []
    except PackageNotFoundError:
        yield Finding(
            None, "b4m runs from its source, not installed: the versions of packages are not checked"
        )
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra that nobody asked for
        wanted = f"{requirement.name} {requirement.specifier}"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(False, f"{wanted} is not installed; pip install '{requirement}'")
            continue
        good = requirement.specifier.contains(found, prereleases=True)
        advice = "" if good else f"; pip install --upgrade '{requirement}'"
        yield Finding(good, f"{requirement.name} {found} ({requirement.specifier}){advice}")


def _folder(folder: Path) -> Iterator[Finding]:
    """A file is really written: permissions and quotas lie."""
    nearest = _nearest(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".b4m-partial-") as file:
            file.write(b"b4m")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding(
            False, f"--output-dir {folder}: {nearest} cannot be written to ({error.strerror}); choose another"
        )
        return
    yield Finding(True, f"--output-dir {folder}: {nearest} can be written to")


def _device(torch, precision: str) -> Iterator[Finding]:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        yield Finding(True, f"GPU {name}: {free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB free")
        if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            yield Finding(None, f"--mixed-precision bf16 is slow on {name}; fp16 is not")
        return
    if torch.backends.mps.is_available():
        yield Finding(None, "Apple GPU: the Riemannian optimizers need float64; --optimizer adamw there")
        return
    yield Finding(None, f"no GPU: training runs on {torch.get_num_threads()} CPU threads")
    if precision == "fp16":
        yield Finding(False, "--mixed-precision fp16 needs a GPU; use no or bf16")


def _model(config: DoctorConfig, try_out: Callable) -> Iterator[Finding]:
    """Loads the base model, if it is here and fits: only that finds every missing or broken part."""
    try:
        named = {"base model": config.base_model, "VAE": config.vae}
        folders = {name: _local(what, name) for what, name in named.items() if name is not None}
    except UserError as error:
        yield Finding(False, str(error))
        return
    if absent := [name for name, folder in folders.items() if folder is None]:
        yield Finding(
            None, f"{', '.join(absent)}: not on this machine yet, will be downloaded from Hugging Face"
        )
        return
    here = [folder for folder in folders.values() if folder is not None]
    files = [
        file for place in here for file in ([place] if place.is_file() else place.rglob("*.safetensors"))
    ]
    stored = sum(file.stat().st_size for file in files)
    room = list(_room(config, stored))
    yield from room
    if not all(finding.good for finding in room):
        return
    vae = None if config.vae is None else str(folders[config.vae])
    try:
        try_out(str(folders[config.base_model]), vae)
    except UserError as error:
        yield Finding(False, str(error))
        return
    yield Finding(True, f"base model {config.base_model} loads" + (f", with VAE {config.vae}" if vae else ""))


def _local(what: str, name: str) -> Path | None:
    """The folder or file that `name` stands for, if it is on this machine. Raises UserError if it cannot come here."""
    from huggingface_hub import constants, snapshot_download

    from ..backbones.source import Saved, find

    source = find(what, name)
    if not isinstance(source, Saved) or source.here:
        return Path(locate(name)).expanduser()
    try:
        return Path(snapshot_download(source.place, revision=source.revision, local_files_only=True))
    except Exception:  # not in the cache, whatever the library calls it
        if constants.HF_HUB_OFFLINE:
            raise UserError(
                f"{name} is neither a folder nor downloaded, and HF_HUB_OFFLINE is set; unset it once, or give a folder"
            ) from None
        return None


def _room(config: DoctorConfig, stored: int) -> Iterator[Finding]:
    """Memory for the weights and disk for the states; rough, and lower than what a training takes."""
    import psutil

    free = psutil.virtual_memory().available
    yield Finding(
        free > stored,
        f"memory: {free / GIGABYTE:.1f} GB free, the weights of {config.base_model} take {stored / GIGABYTE:.2f} GB"
        + ("" if free > stored else "; close other programs"),
    )
    nearest = _nearest(Path(config.output_dir))
    disk, needed = shutil.disk_usage(nearest).free, STATES * stored // 10
    yield Finding(
        disk > needed,
        f"disk: {disk / GIGABYTE:.1f} GB free at {nearest}, {STATES} saved states of a tenth of the base model "
        f"take {needed / GIGABYTE:.2f} GB"
        + ("" if disk > needed else "; free some, or choose another --output-dir"),
    )


def _nearest(folder: Path) -> Path:
    """The part of the path that is there already."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
