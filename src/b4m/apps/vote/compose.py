"""Which comparisons a study asks for: spread evenly over pairs and methods, the same for the same seed."""

import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from ...core.errors import UserError
from .material import Cell, Material
from .questions import ASKED, CHECK, Option, Question
from .settings import MakeConfig

Name = Callable[[str, Path], str]  # (method or "", image): the image's name in the study
REFERENCE = "the reference itself"  # what the right option of an attention check is called
POOL = 8  # attention checks of each study, for voters to get different ones
CHOICES = 4  # of an attention check, where there are images enough
T = TypeVar("T")


def compose(material: Material, config: MakeConfig, name: Name) -> list[Question]:
    """The questions of all studies, each study's in the order in which voters' shares are cut from it.

    `name` gives every image that is shown a name. Raises UserError where the images cannot make what is asked for.
    """
    order = random.Random(config.seed)
    ours = config.ours or material.methods[0]
    if ours not in material.methods:
        raise UserError(f"--ours {ours!r}: choose one of {', '.join(material.methods)}")
    sets = _sets(material, ours, config, order) if {"success", "consistency"} & set(config.studies) else []
    made = {"alignment": _singles(material, config, order), "success": sets, "consistency": sets}
    questions: list[Question] = []
    for study in config.studies:
        found = [
            _question(material, study, asked, cells, methods, name)
            for cells, methods in made[study]
            for asked in ASKED[study]
        ]
        order.shuffle(found)
        questions += found
        if config.checks:
            questions += [_check(material, study, cell, name) for cell in _some_cells(material, order)]
    return questions


Comparison = tuple[tuple[Cell, ...], tuple[str, ...]]  # the cells of a set, and the methods that are compared


def _singles(material: Material, config: MakeConfig, order: random.Random) -> list[Comparison]:
    """User study I: one image of every method."""
    by_pair: dict[str, list[Comparison]] = defaultdict(list)
    for cell in _shuffled(list(material.images), order):
        by_pair[cell.pair].append(((cell,), material.methods))
    return _spread(by_pair, config.items, order)


def _sets(material: Material, ours: str, config: MakeConfig, order: random.Random) -> list[Comparison]:
    """User studies II and III: a set of ours beside the same set of another method, the others taking turns."""
    others = _shuffled([method for method in material.methods if method != ours], order)
    by_pair: dict[str, list[Comparison]] = {}
    for number, pair in enumerate(dict.fromkeys(cell.pair for cell in material.images)):
        groups = _groups([cell for cell in material.images if cell.pair == pair], config.set_size, order)
        turned = others[number % len(others) :] + others[: number % len(others)]
        by_pair[pair] = [(group, (ours, other)) for group in groups for other in turned]
    return _spread(by_pair, config.items, order)


def _groups(cells: Sequence[Cell], size: int, order: random.Random) -> list[tuple[Cell, ...]]:
    """Sets of one prompt and training with seeds enough (the paper's way), else of all the pair's images."""
    alike: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        alike[cell.prompt, cell.training].append(cell)
    enough = [found for found in alike.values() if len(found) >= size]
    if not enough and len(cells) < size:
        raise UserError(
            f"pair {cells[0].pair!r}: {len(cells)} images that every method has, a set has {size}; draw more seeds, "
            f"give --set-size {len(cells)}, or leave II and III out with --studies alignment"
        )
    return _shuffled([tuple(sorted(order.sample(found, size))) for found in enough or [list(cells)]], order)


def _spread(by_pair: dict[str, list[T]], count: int, order: random.Random) -> list[T]:
    """`count` of all, each pair's next one in turn."""
    pairs = _shuffled(list(by_pair.values()), order)
    return [one for turn in zip_longest(*pairs) for one in turn if one is not None][:count]


def _shuffled(values: Sequence[T], order: random.Random) -> list[T]:
    return order.sample(values, len(values))


def _question(
    material: Material,
    study: str,
    asked: str,
    cells: tuple[Cell, ...],
    methods: tuple[str, ...],
    name: Name,
) -> Question:
    prompts = {cell.prompt for cell in cells}
    content, style = _references(material, cells[0].pair, name)
    return Question(
        id=secrets.token_hex(8),
        study=study,
        asked=asked,
        pair=cells[0].pair,
        prompt=prompts.pop() if len(prompts) == 1 else "",
        content=content,
        style=style,
        options=tuple(
            Option(method, tuple(name(method, material.images[cell][method]) for cell in cells))
            for method in methods
        ),
    )


def _references(material: Material, pair: str, name: Name) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the content's and of the style's reference images."""
    content, style = material.references[pair]
    return tuple(name("", path) for path in content), tuple(name("", path) for path in style)


def _some_cells(material: Material, order: random.Random) -> list[Cell]:
    by_pair: dict[str, list[Cell]] = defaultdict(list)
    for cell in _shuffled(list(material.images), order):
        by_pair[cell.pair].append(cell)
    return _spread(by_pair, POOL, order)


def _check(material: Material, study: str, cell: Cell, name: Name) -> Question:
    """An attention check: the first content reference itself, among images that the methods drew."""
    content, style = _references(material, cell.pair, name)
    wrong = [Option(method, (name(method, path),)) for method, path in material.images[cell].items()]
    return Question(
        id=secrets.token_hex(8),
        study=study,
        asked=CHECK,
        pair=cell.pair,
        prompt="",
        content=content[:1],
        style=style[:1],
        options=(Option(REFERENCE, content[:1]), *wrong[: CHOICES - 1]),
        right=REFERENCE,
    )
