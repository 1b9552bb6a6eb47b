"""Settings of `b4m study` and `b4m library`."""

from dataclasses import dataclass
from pathlib import Path

from ..config.fields import InputPath, OutputPath, check, setting
from ..core.errors import UserError
from ..core.where import locate

FOLDER = "examples/configs/studies"  # of the shipped studies


@dataclass(frozen=True)
class StudyConfig:
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
        check(self)
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
    def path(self) -> Path:
        named = Path(locate(f"{FOLDER}/{self.study}.yaml"))
        return named if named.exists() else Path(locate(self.study))


@dataclass(frozen=True)
class LibraryConfig:
    """Settings of one run of a library. Raises UserError for one that is not there."""

    build: InputPath = setting("YAML file of the library: contents, styles, partners, prompts, ...")
    output_dir: OutputPath = setting(
        "folder for concepts and images, which libraries share, gallery and index", "outputs/library"
    )

    def __post_init__(self) -> None:
        check(self)
        if not Path(locate(self.build)).is_file():
            raise UserError(f"build {self.build}: no such file; give the YAML file of a library")

    @property
    def name(self) -> str:
        """Of the folder of gallery and index."""
        return Path(self.build).stem
