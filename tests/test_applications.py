"""The recipes for the paper's applications: each is a library that plans as its head says."""

from collections import Counter
from pathlib import Path

import pytest
from conftest import picture

from b4m.studies.library import plan_library
from b4m.studies.settings import LibraryConfig

FOLDER = Path(__file__).parents[1] / "examples" / "applications"
BROUGHT = {  # what a recipe asks for, and what its head counts of it: trainings, pairs, images
    "textures": (
        (
            "products/bag",
            "products/chair",
            *(f"materials/{n}" for n in ("knit", "burlap", "denim", "fabric")),
        ),
        (6, 8, 192),
    ),
    "portraits": (("people/anna", "looks/sticker", "looks/watercolour", "looks/cartoon"), (4, 3, 108)),
    "modern-art": (("subjects/dog", "arts/line_art", "arts/map"), (3, 2, 96)),
}


def counts(recipe: Path, root: Path, known: tuple[str, ...] = ("content", "style")) -> tuple[int, int, int]:
    plan = plan_library(LibraryConfig(str(recipe), output_dir=str(root)))[1]
    pairs = {(drawing.content, drawing.style) for drawing in plan.drawings}
    stages = Counter(training.config.stage for training in plan.trainings.values())
    assert set(stages) == set(known)
    return stages.total(), len(pairs), sum(len(drawing.asked) for drawing in plan.drawings)


@pytest.mark.parametrize("name", BROUGHT)
def test_a_recipe_plans_as_its_head_says(name, tmp_path, monkeypatch):
    brought, expected = BROUGHT[name]
    partners = [f"partners/{kind}/{each}" for kind in ("styles", "contents") for each in ("one", "two")]
    for number, folder in enumerate((*brought, *partners)):
        (tmp_path / folder).mkdir(parents=True)
        picture(number).save(tmp_path / folder / "0.png")
    monkeypatch.chdir(tmp_path)
    recipe = FOLDER / f"{name}.yaml"
    assert counts(recipe, tmp_path / "out") == expected
    head = recipe.read_text()
    assert (
        f"{expected[0]} trainings" in head
        and f"{expected[1]} pairs" in head
        and f"= {expected[2]} images" in head
    )


@pytest.mark.parametrize("name", BROUGHT)
def test_its_analogue_plans_without_anything_brought(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = FOLDER / "drawn" / f"{name}.yaml"
    assert counts(drawn, tmp_path / "out", known=("content", "style", "second")) == (3, 1, 12)
