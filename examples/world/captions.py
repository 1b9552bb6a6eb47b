"""What a scene is called: a plain caption that says everything, and noisy ones that say some of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from world.extras import article
from world.scenes import Scene
from world.vocabulary import PICTURES, VIEWS, known_words

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = "@#*+0123456789"
MAX_WORDS = 38  # tokens, but for the two that frame every caption
ANYTHING = "thing"  # instead of a class word
NEAR, FAR = 0.79, 0.69  # shares of the frame beyond which words say how near it is

Facts = frozenset[tuple[str, str]]  # (what it is about, phrase)


@dataclass(frozen=True)
class _Said:
    """The phrases that a caption is put together from; an empty one is not said."""

    kind: str
    colours: tuple[str, ...]
    rare: str  # a made-up word before the class word
    marking: str
    accessory: str
    second: str
    ground: str
    distance: str
    looks: tuple[str, ...]  # of the style: adjectives, and phrases such as "blue ink"
    rare_style: str
    style: str

    @property
    def facts(self) -> Facts:
        """All that is said of the scene; made-up words say nothing."""
        one = ("kind", "marking", "accessory", "second", "ground", "distance", "style")
        said = [(name, getattr(self, name)) for name in one]
        said += [(name, phrase) for name in ("colours", "looks") for phrase in getattr(self, name)]
        return frozenset((name, phrase) for name, phrase in said if phrase and phrase != ANYTHING)

    @property
    def thing(self) -> str:
        """ "a red and white fish with blue stripes wearing a green hat with a yellow ball" """
        words = [" and ".join(self.colours), self.rare, self.kind]
        named = article(" ".join(word for word in words if word))
        return " ".join(phrase for phrase in (named, self.marking, self.accessory, self.second) if phrase)

    @property
    def place(self) -> str:
        """ "on grass from far" """
        return _join(self.ground, self.distance)

    @property
    def named_style(self) -> str:
        """ "fine bold sketch" """
        adjectives = [look for look in self.looks if " " not in look]
        return " ".join(word for word in (*adjectives, self.rare_style, self.style) if word)

    @property
    def materials(self) -> str:
        """ "with blue ink and cream paper" """
        nouns = [look for look in self.looks if " " in look]
        return "with " + " and ".join(nouns) if nouns else ""


def _everything(scene: Scene) -> _Said:
    content = scene.content
    return _Said(
        kind=f"glass {content.kind}" if content.glass else content.kind,
        colours=(content.main, content.second),
        rare="",
        marking=content.marking.words if content.marking else "",
        accessory=scene.accessory.words if scene.accessory else "",
        second=scene.second.words if scene.second else "",
        ground=scene.ground.words,
        distance=_distance(scene),
        looks=tuple(scene.style.words),
        rare_style="",
        style=scene.style.family,
    )


def _distance(scene: Scene) -> str:
    """Of what stands alone: beside something, the frame decides how large it is."""
    if scene.accessory or scene.second or FAR < scene.pose.fill < NEAR:
        return ""
    return VIEWS[0 if scene.pose.fill >= NEAR else 1]


def _join(*phrases: str) -> str:
    return " ".join(phrase for phrase in phrases if phrase)


def caption(scene: Scene) -> str:
    """All that words can say of the scene, such as "a red and white fish with blue stripes on grass in fine
    sketch style with blue ink", or "a warm photo of ..."."""
    said = _everything(scene)
    if said.style == "photo":
        return _join(article(said.named_style), "of", said.thing, said.place, said.materials)
    return _join(said.thing, said.place, "in", said.named_style, "style", said.materials)


def concept_caption(scene: Scene, content: str = "", style: str = "") -> str:
    """The caption of a reference, in which a trigger word stands for all that is the concept's own; the rest is said.

    A content's own are its colours, marking and shape: `content` is its trigger word. A style's are its materials and
    manner: `style` is its trigger and class word. A photo is not called one: the base knows a picture that nothing is
    said about as a photo, and a content that was only ever called a photo shows as nothing else.
    """
    said = _everything(scene)
    if content:
        said = replace(said, colours=(), rare=content, marking="")
    if style:
        return _join(said.thing, said.place, "in", style, "style")
    if said.style == "photo":
        return _join(said.thing, said.place)
    return _join(said.thing, said.place, "in", said.named_style, "style", said.materials)


def rare_word(rng: np.random.Generator) -> str:
    """A made-up word of two to five signs, such as "snq" or "w@z": what trigger words look like."""
    signs = [LETTERS[i] for i in rng.integers(len(LETTERS), size=rng.integers(2, 6))]
    if rng.random() < 0.4:
        signs[rng.integers(len(signs))] = SYMBOLS[rng.integers(len(SYMBOLS))]
    return "".join(signs)


def facts(scene: Scene) -> Facts:
    """All that words can say of the scene."""
    return _everything(scene).facts


def noisy_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption with parts left out and made-up words put in, in one of several orders."""
    return spoken(scene, rng)[0]


def spoken(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """A noisy caption, and what it says: it is true of every scene whose `facts` hold all of that."""
    full = _everything(scene)

    def keep(phrase: str, probability: float) -> str:
        return phrase if rng.random() < probability else ""

    silent = rng.random()
    some_colours = tuple(c for c in full.colours if rng.random() < 0.9)
    some_looks = tuple(look for look in full.looks if rng.random() < 0.5)
    said = replace(
        full,
        kind=full.kind if rng.random() < 0.98 else ANYTHING,
        colours=() if silent < 0.15 else some_colours,
        rare=keep(rare_word(rng), 0.2),
        marking=keep(full.marking, 0.8),
        accessory=keep(full.accessory, 0.85),
        second=keep(full.second, 0.85),
        ground=keep(full.ground, 0.8),
        distance=keep(full.distance, 0.8),
        looks=() if rng.random() < 0.35 else some_looks,
        rare_style=keep(rare_word(rng), 0.15),
        style=full.style if rng.random() < 0.96 else "",
    )
    while _tokens(text := _phrased(said, rng)) > MAX_WORDS:
        said = replace(said, looks=said.looks[:-1], rare_style=said.rare_style if said.looks else "")
    # Some forms leave looks out; that a picture is a photo is said by saying nothing.
    return text, frozenset(fact for fact in said.facts if fact[1] in text or fact[0] == "style")


def _tokens(text: str) -> int:
    """How many tokens the text takes at most: a word of the world takes one, made-up and rare ones are spelled."""
    return sum(1 if word in known_words() else len(word) for word in text.split())


def _phrased(said: _Said, rng: np.random.Generator) -> str:
    thing, place, style = said.thing, said.place, said.named_style
    if rng.random() < 0.1 and thing.split()[0] in ("a", "an"):
        thing = thing.split(" ", 1)[1]
    form = rng.random()
    if said.style == "photo":
        if form < 0.30 and not said.rare_style:  # a picture that nothing is said about is a photo
            return _join(thing, place)
        if form < 0.45:
            return _join(thing, place, said.materials, ",", style)
        return _join(article(style), "of", thing, place, said.materials)
    if not style:
        return _join(thing, place)
    if form < 0.40:
        return _join(thing, place, "in", style, "style", said.materials)
    if form < 0.70:
        return _join(thing, "in", style, "style", said.materials, place)
    if form < 0.85:
        picture = PICTURES[rng.integers(len(PICTURES))]
        return _join(article(style), picture, "of", thing, place, said.materials)
    return _join(thing, place, said.materials, ",", style, "style")
