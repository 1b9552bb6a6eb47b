"""Settings of `b4m study` and `b4m library`."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from ..config.fields import InputPath, OutputPath, check, setting
from ..core.errors import UserError
from ..core.where import locate

FOLDER = "examples/configs/studies"  # of the shipped studies
ENGINES = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class EngineConfig(ABC):
    """Who does the work of a study or a library. Raises UserError."""

    engine: str = setting(
        "this machine's devices, or those of a Ray cluster (pip install 'b4m[ray]')", "local", choices=ENGINES
    )
    workers: int | None = setting(
        "jobs at a time; each has a process of its own, with one thread on a CPU (default: one for each GPU, "
        "on a CPU one; on Ray as many as there is room for)",
        None,
        low=1,
        high=10_000,
    )
    retries: int = setting("how often a job is begun again whose worker is lost", 3, low=0, high=1000)
    address: str = setting("of the Ray cluster; auto: the one that this machine belongs to", "auto")
    gpus: float | None = setting(
        "GPUs of a job on Ray; 0.25 puts four on one GPU (default: 1 where the cluster has any)",
        None,
        low=0,
        high=1,
    )

    write_slurm: OutputPath | None = setting(
        "write an array job of --workers elements for Slurm to this folder, and do nothing else", None
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the folder of results."""

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """The words after `b4m` that run this again."""


@dataclass(frozen=True)
class StudyConfig(EngineConfig):
    """Settings of one run of a study. Raises UserError for a study that is not there."""

    study: InputPath = setting(f"a study's YAML file, or the name of one in {FOLDER}")
    subjects: InputPath | None = setting(
        "YAML file with the contents, styles, prompts and base model to run it on (default: the study's own)",
        None,
    )
    output_dir: OutputPath = setting(
        "folder for trainings and images, which studies share, and results", "outputs/studies"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path.exists():
            known = (
                ", ".join(sorted(path.stem for path in Path(locate(FOLDER)).glob("*.yaml"))) or "none here"
            )
            raise UserError(f"study {self.study}: no such file, nor one of {FOLDER} ({known})")

    @property
    def name(self) -> str:
        """Of the folder of results: the study's, and that of the subjects it is run on instead of its own."""
        return "-".join(Path(file).stem for file in (self.study, self.subjects) if file)

    @property
    def command(self) -> str:
        """What runs this study again."""
        return f"b4m study {self.study}" + (f" --subjects {self.subjects}" if self.subjects else "")

    @property
    def words(self) -> list[str]:
        subjects = ["--subjects", self.subjects] if self.subjects else []
        return ["study", self.study, *subjects, "--output-dir", self.output_dir]

    @property
    def path(self) -> Path:
        named = Path(locate(f"{FOLDER}/{self.study}.yaml"))
        return named if named.exists() else Path(locate(self.study))


@dataclass(frozen=True)
class LibraryConfig(EngineConfig):
    """Settings of one run of a library. Raises UserError for one that is not there."""

    build: InputPath = setting("YAML file of the library: contents, styles, partners, prompts, ...")
    output_dir: OutputPath = setting(
        "folder for concepts and images, which libraries share, gallery and index", "outputs/library"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not Path(locate(self.build)).is_file():
            raise UserError(f"build {self.build}: no such file; give the YAML file of a library")

    @property
    def name(self) -> str:
        """Of the folder of gallery and index."""
        return Path(self.build).stem

    @property
    def words(self) -> list[str]:
        return ["library", self.build, "--output-dir", self.output_dir]
