"""What a study is made of: images of the same pairs and prompts by several methods, from a manifest or from folders."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...core.errors import UserError
from ...core.where import locate
from ...data.images import picture_files
from ...evaluation.manifest import NAME as MANIFEST
from ...evaluation.manifest import Shot, read_manifest

REFERENCES = "references"
MAX_METHODS = 12
SHOWN_REFERENCES = 3  # of a content or a style: more would leave no room for the choices
LAYOUT = (
    f"put {REFERENCES}/PAIR/content and {REFERENCES}/PAIR/style (an image or a folder of images) and "
    "METHOD/PAIR/NAME.png there, the same NAMEs for every method"
)


class Cell(NamedTuple):
    """One thing to draw: methods that share a cell answered the same prompt with the same seed."""

    pair: str
    prompt: str
    training: str  # its seed
    draw: str  # the seed of the image, or the name of its file


@dataclass(frozen=True)
class Material:
    """references: {pair: (content images, style images)}. images: {cell: {method: image}}, every method in each."""

    methods: tuple[str, ...]
    references: dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]]
    images: dict[Cell, dict[str, Path]]


def gather(source: Path | str, only: Sequence[str] = ()) -> Material:
    """The material in `source`. only: methods to compare, in this order. Raises UserError."""
    folder = Path(locate(str(source)))
    found = _from_manifest(folder) if (folder / MANIFEST).exists() else _from_folders(folder)
    methods = tuple(only) or found.methods
    for name in methods:
        if name not in found.methods:
            raise UserError(f"--methods {name!r}: none of {folder}; it has {', '.join(found.methods)}")
    if len(set(methods)) < 2:
        raise UserError(f"{folder}: {len(set(methods))} method; a choice needs two or more")
    if len(methods) > MAX_METHODS:
        raise UserError(
            f"{folder}: {len(methods)} methods, nobody compares more than {MAX_METHODS} at once; choose with --methods"
        )
    shared = {
        cell: {name: files[name] for name in methods}
        for cell, files in sorted(found.images.items())
        if all(name in files for name in methods)
    }
    if not shared:
        raise UserError(
            f"{folder}: no image of the same pair, prompt and seed by each of {', '.join(methods)}; "
            "leave some out with --methods, or draw what is missing"
        )
    return Material(methods, found.references, shared)


def _from_manifest(folder: Path) -> Material:
    shots = read_manifest(folder)
    images: dict[Cell, dict[str, Path]] = defaultdict(dict)
    references: dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]] = {}
    for shot, training_seed in _beside_each_training(shots):
        pair = f"{shot.content} | {shot.style}"
        cell = Cell(pair, shot.prompt, str(training_seed), f"{shot.seed:020d}")
        images[cell][shot.row] = shot.file
        if pair not in references:
            references[pair] = _some(shot.content_dir), _some(shot.style_dir)
    return Material(tuple(dict.fromkeys(shot.row for shot in shots)), references, images)


def _beside_each_training(shots: Sequence[Shot]) -> Iterator[tuple[Shot, int | None]]:
    """Each shot with its training seed; one without any (a base model) with each of its pair's, as in the tables."""
    seeds: dict[tuple[str, str], set[int | None]] = defaultdict(set)
    for shot in shots:
        seeds[shot.pair].add(shot.training_seed)
    for shot in shots:
        own = {shot.training_seed} if shot.training_seed is not None else seeds[shot.pair] - {None} or {None}
        yield from ((shot, seed) for seed in own)


def _some(where: Path) -> tuple[Path, ...]:
    return tuple(picture_files(where)[:SHOWN_REFERENCES])


def _from_folders(folder: Path) -> Material:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {LAYOUT}")
    methods = tuple(path.name for path in _subfolders(folder) if path.name != REFERENCES)
    pairs = _subfolders(folder / REFERENCES) if (folder / REFERENCES).is_dir() else []
    if not methods or not pairs:
        raise UserError(f"{folder}: neither {MANIFEST} nor {REFERENCES}/ and folders of methods; {LAYOUT}")
    references = {pair.name: (_reference(pair, "content"), _reference(pair, "style")) for pair in pairs}
    images: dict[Cell, dict[str, Path]] = defaultdict(dict)
    for method in methods:
        for pair in _subfolders(folder / method):
            if pair.name not in references:
                raise UserError(
                    f"{pair}: no {REFERENCES}/{pair.name}; voters see a content and a style reference with each pair"
                )
            for file in picture_files(pair):
                images[Cell(pair.name, "", "", file.stem)][method] = file
    return Material(methods, references, images)


def _reference(pair: Path, kind: str) -> tuple[Path, ...]:
    for place in sorted(pair.iterdir()):
        if place.stem == kind:  # content/, content.png, content.jpg ...
            return _some(place)
    raise UserError(f"{pair}: no {kind} image in it; {LAYOUT}")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
