"""The job behind `b4m push`: read and check everything, make the card, then send it all as one commit."""

from dataclasses import dataclass
from pathlib import Path

from . import hub
from .about import about
from .card import card
from .pictures import pictures
from .project import is_folder_of_files, members
from .project_card import project_card
from .scores import read_scores
from .settings import PushConfig


@dataclass(frozen=True)
class Plan:
    """What will lie in the repository."""

    card: str
    others: dict[str, bytes | Path]  # name there -> its bytes, or the file that holds them

    @property
    def files(self) -> dict[str, bytes | Path]:
        return {"README.md": self.card.encode(), **self.others}


def plan(config: PushConfig) -> Plan:
    """Everything but the network. Raises UserError."""
    images = pictures(config.images)
    scores = read_scores(config.scores) if config.scores else ()
    shown = {one.name: one.data for one in images}
    if is_folder_of_files(config.file):
        found = members(config.file, config.base_model)
        text = project_card(found, config.repo, config.license, images, scores)
        return Plan(text, {**{one.name: one.about.path for one in found}, **shown})
    file = about(config.file, config.base_model)
    text = card(file, config.repo, config.license, images, scores)
    return Plan(text, {file.name: file.path, **shown})


def push(config: PushConfig) -> str:
    """-> the repository's address. Raises UserError."""
    return hub.upload(config.repo, config.public, plan(config).files)


def dry_run(config: PushConfig) -> str:
    """The card, and what would be sent where. Touches no network."""
    made = plan(config)
    seen = "everybody can see it" if config.public else "private"
    listed = "\n".join(f"  {name}  {_bytes(data):,} bytes" for name, data in made.files.items())
    return f"{made.card}\nto {config.repo} ({seen}):\n{listed}"


def _bytes(data: bytes | Path) -> int:
    return data.stat().st_size if isinstance(data, Path) else len(data)
