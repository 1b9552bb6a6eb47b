"""What all tabs of the page share: the project, its queue, the drawing process, and what stands in them now."""

from collections.abc import Sequence

from ...config.presets import PRESETS
from ...core.errors import UserError
from . import cells, jobs, library
from .cells import Shot
from .doctoring import Doctor
from .jobs import Progress
from .library import Concept
from .plain import without_paths
from .project import Project
from .runner import Runner
from .words import Advice, look
from .worker import Worker

SHOWN = 8  # trainings that are done, on Teach


class Studio:
    """One opened project and its processes."""

    def __init__(self, project: Project, runner: Runner, worker: Worker) -> None:
        self.project, self.runner, self.worker, self.doctor = project, runner, worker, Doctor(project)
        self.size: int = PRESETS[project.base.preset]["train"]["resolution"]

    def told(self, error: BaseException) -> str:
        """An error as the page shows it."""
        return without_paths(error, self.project.folder)

    def trainings(self) -> list[tuple[Concept, Progress]]:
        """Those that are not done, and the newest SHOWN of the others; what runs or waits comes first."""
        known = {concept.ident: concept for concept in library.concepts(self.project)}
        some = jobs.jobs(self.project)
        some = [job for job in some if not job.done] + [job for job in some if job.done][-SHOWN:]
        found = [(known[job.ident], jobs.look(self.project, job)) for job in some if job.ident in known]
        return sorted(found, key=lambda pair: (pair[1].ended, -pair[1].job.queued))

    def states(self) -> dict[str, Progress]:
        """Of the trainings that are shown."""
        return {concept.ident: progress for concept, progress in self.trainings()}

    def ready(self, kind: str) -> list[tuple[str, str]]:
        """(name, ident) of what can be drawn with."""
        found = library.concepts(self.project)
        return [
            (one.name, one.ident) for one in found if one.kind == kind and library.ready(self.project, one)
        ]

    def chosen(self, idents: Sequence[str] | str | None) -> list[Concept]:
        """Raises UserError for one that is not there any more."""
        some = [idents] if isinstance(idents, str) else list(idents or ())
        return [library.get(self.project, ident) for ident in some if ident]

    def advice(self, trigger: str, class_word: str) -> Advice:
        taken = [(one.trigger, one.name) for one in library.concepts(self.project) if one.trigger]
        try:
            return look(trigger, class_word, self.worker.tokens, taken)
        except UserError as error:  # of a base model that cannot be loaded
            return Advice(False, self.told(error))

    def delete(self, ident: str) -> None:
        """Its training is stopped first: what writes to a folder must not lose it. Raises UserError."""
        job = jobs.load(self.project, ident)
        if job is not None and jobs.look(self.project, job).state == "running":
            raise UserError("it is being trained: stop the training first, then delete it")
        library.delete(self.project, ident)

    def redrawn(self, shot: Shot) -> str:
        """The cell of one image, drawn if need be. Raises UserError."""
        name = cells.key(self.project, shot)
        if not self.project.cell(name).is_file():
            self.worker.draw(name, shot)
        return name
