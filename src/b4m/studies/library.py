"""Run a library: concepts trained once, every pair put together and drawn, scored, shown in a gallery, indexed."""

from pathlib import Path

from ..backbones.registry import cut_off_at_hand
from ..config.resolve import resolve
from ..core.errors import Busy, UserError
from ..core.lock import exclusive
from ..core.storage import sweep
from ..data.findings import brief, quoted
from ..files.export import export
from ..files.settings import ExportConfig
from .build import Library, read_library
from .engines.slurm import write_slurm
from .gallery import write_gallery
from .index import check_datasets, entries_of, write_index
from .names import ByContent
from .plan import Plan
from .run import forecast, score_drawn, work
from .settings import LibraryConfig
from .tasks import pairs_of


def plan_library(config: LibraryConfig) -> tuple[Library, Plan]:
    """What the file asks for, and the work that it means. Raises UserError."""
    built = read_library(config.build)
    try:
        plan = Plan(built.study, Path(config.output_dir), ByContent())
    except UserError as error:
        raise UserError(f"{config.build}: {error}") from error
    if bare := [drawing.row for drawing in plan.drawings if not drawing.files]:
        method = built.looks[bare[0]][0]
        raise UserError(f"{config.build}: methods: {method} trains nothing, so it puts no pair together")
    _check_read(config.build, plan)
    return built, plan


def _check_read(where: str, plan: Plan) -> None:
    """Raises UserError for a prompt whose end would not be read: before days of training, not after them."""
    asked: dict[str, list[str]] = {}
    for drawing in plan.drawings:
        asked.setdefault(drawing.config.base_model, []).extend(drawing.config.prompts)
    for base_model, prompts in asked.items():
        prompts = list(dict.fromkeys(prompts))
        if (cut := cut_off_at_hand(base_model, prompts)) is None:
            continue  # the base model is still to be downloaded
        for prompt, rest in zip(prompts, cut.words, strict=True):
            if rest:
                raise UserError(
                    f"{where}: prompt {quoted(brief(prompt))}: longer than the {cut.limit} tokens that {base_model} "
                    f"reads, cut off would be {quoted(brief(rest))}; shorten it"
                )


def dry_run(config: LibraryConfig) -> str:
    """What the library means, in lines: what would be trained and drawn, what is done, how many hours are left."""
    built, plan = plan_library(config)
    study, own = built.study, built.own
    pairs = pairs_of(plan)
    left = sum(any(drawing.left for drawing in pair) for pair in pairs)
    return "\n".join(
        [
            f"{study.title}: {len(study.contents)} contents x {len(study.styles)} styles",
            f"methods: {', '.join(own.methods)}; dials: {', '.join(own.dials)}",
            *forecast(plan),
            f"pairs: {len(pairs)}, {left} to draw",
        ]
    )


def slurm(config: LibraryConfig, folder: str) -> Path:
    """The array job, in `folder`, that does the library. Raises UserError."""
    check_datasets()
    return write_slurm(config, plan_library(config)[1].root, folder)


def library(config: LibraryConfig) -> Path | None:
    """Do what is left of the library; the page of its gallery. None: another process writes it.

    Started more than once, processes share the work. Raises UserError; SystemExit(128 + n) after signal n, nothing is
    lost.
    """
    check_datasets()
    built, plan = plan_library(config)
    work(plan, config, config.name)
    folder = Path(config.output_dir) / "results" / config.name
    try:
        with exclusive(folder):
            for place in (folder, folder / "gallery"):
                sweep(place)
            records = score_drawn(plan, folder / "scores")[0] if built.own.score else []
            entries = entries_of(plan, records)
            if built.own.fused:
                _fuse(plan.root / "fused", plan)
            write_index(folder, built, plan, entries)
            return write_gallery(folder / "gallery", built, plan, entries)
    except Busy:
        return None


def _fuse(folder: Path, plan: Plan) -> None:
    """Each pair of concept files as one LoRA file as trained, dials at 1; files that are there stay."""
    for drawing in plan.drawings:
        files = drawing.files
        if {*files} != {"content_file", "style_file"}:
            continue  # the method has made one file of them itself
        name = "-".join(Path(path).parent.name for path in files.values())
        path = folder / f"{name}.safetensors"
        if not path.exists():
            settings = {"base_model": drawing.config.base_model, "output": str(path)}
            export(resolve(ExportConfig, plan.study.preset, **settings, **files))
