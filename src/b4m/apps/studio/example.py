"""The example project: one content and one style of the references that come with b4m, taught at once."""

from pathlib import Path

from ...config.presets import PRESETS
from ...core.where import locate
from . import references, teach
from .library import Concept, concepts
from .project import Project

REFERENCES = "examples/references"
# (kind, folder, name, class word, trigger); the two that README's picture shows.
CONCEPTS = (
    ("content", "car", "Star car", "car", "snq"),
    ("style", "watercolour", "Watercolour on cream", "watercolour", "w@z"),
)


def is_empty(project: Project) -> bool:
    return not concepts(project)


def begin(project: Project) -> list[Concept]:
    """Put its images into the project and its trainings into the queue. Raises UserError."""
    size = PRESETS["embedded"]["train"]["resolution"]
    made = []
    for kind, folder, name, class_word, trigger in CONCEPTS:
        desk = teach.desk(project, kind)
        references.clear(desk)
        files = sorted(Path(locate(f"{REFERENCES}/{kind}/{folder}")).iterdir())
        references.add(desk, [(file, file.name) for file in files], size)
        form = teach.Form(kind, name, class_word, trigger, length="usual")
        made.append(teach.begin(project, form))
    return made
