"""The particular members of all three sets by their plain words, and what a picture of one is to be called."""

from __future__ import annotations

from collections.abc import Iterable

from world import sets, style_sets
from world.contents import CLASSES, COLOURS, Content
from world.grounds import KINDS as GROUNDS
from world.scenes import Scene
from world.style_sets import NamedStyle
from world.styles import FAMILIES, RARE


def _by_word(styles: Iterable[NamedStyle]) -> dict[str, NamedStyle]:
    """Styles by their class words; where one word would say two, the first look of the other stands before it."""
    found: dict[str, NamedStyle] = {}
    for one in styles:
        found[f"{one.style.words[0]} {one.word}" if one.word in found else one.word] = one
    return found


SETS: dict[str, tuple[dict[str, Content], dict[str, NamedStyle]]] = {
    which: ({name.replace("_", " "): c for name, c in contents.items()}, _by_word(styles.values()))
    for which, contents, styles in (
        ("tuning", sets.TUNING, style_sets.TUNING),
        ("confirmation", sets.CONFIRMATION, style_sets.CONFIRMATION),
        ("rare", sets.RARE, style_sets.RARE),
    )
}
CONTENTS = {word: content for contents, _ in SETS.values() for word, content in contents.items()}
STYLES = {word: one.style for _, styles in SETS.values() for word, one in styles.items()}


def instance(word: str) -> str:
    """How a judge calls the particular member: "bear instance"; any other bear is a "bear"."""
    return f"{word} instance"


LABELS: dict[str, tuple[str, ...]] = {
    "content": (*CLASSES, *map(instance, CONTENTS)),
    "style": (*FAMILIES, *RARE, *map(instance, STYLES)),
    "background": GROUNDS,
    "colour": tuple(COLOURS),
}


def labels(scene: Scene) -> dict[str, str]:
    """What is to be said of a drawing of the scene, by aspect."""
    content = next((instance(word) for word, one in CONTENTS.items() if one == scene.content), "")
    style = next((instance(word) for word, one in STYLES.items() if one == scene.style), "")
    return {
        "content": content or scene.content.kind,
        "style": style or scene.style.family,
        "background": scene.ground.kind,
        "colour": scene.content.main,
    }
