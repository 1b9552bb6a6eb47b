"""What a style family leaves open: ranges of numbers, named colours and choices, and the words for their values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

RGB = tuple[float, float, float]

WORDED = 0.35  # the share at either end of a range that its word names; the middle has no name


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; what lies near an end may have a word."""

    low: float
    high: float
    words: tuple[str, str] = ("", "")

    def sample(self, rng: np.random.Generator) -> float:
        return round(float(rng.uniform(self.low, self.high)), 4)

    def word(self, value: float) -> str:
        place = (value - self.low) / (self.high - self.low)
        return self.words[0] if place < WORDED else self.words[1] if place > 1 - WORDED else ""

    def ends(self) -> tuple[float, float]:
        return self.low, self.high

    def vocabulary(self) -> tuple[str, ...]:
        return self.words


@dataclass(frozen=True)
class Tone:
    """A colour near one of several named ones; `noun` says of what: "cream paper"."""

    names: tuple[tuple[str, RGB], ...]
    noun: str = ""
    jitter: float = 0.035

    def sample(self, rng: np.random.Generator) -> RGB:
        _, base = self.names[rng.integers(len(self.names))]
        r, g, b = np.clip(np.array(base) + rng.uniform(-self.jitter, self.jitter, 3), 0, 1).round(4).tolist()
        return r, g, b

    def word(self, value: RGB) -> str:
        if not self.noun:
            return ""
        name, _ = min(self.names, key=lambda named: float(np.abs(np.subtract(named[1], value)).sum()))
        return f"{name} {self.noun}"

    def ends(self) -> tuple[RGB, RGB]:
        return self.names[0][1], self.names[1][1]

    def vocabulary(self) -> tuple[str, ...]:
        return (*(name for name, _ in self.names), self.noun) if self.noun else ()


@dataclass(frozen=True)
class Choice:
    """One of several kinds, each with a word of its own, or none ("")."""

    kinds: tuple[str, ...]
    words: tuple[str, ...] = ()

    def sample(self, rng: np.random.Generator) -> str:
        return self.kinds[rng.integers(len(self.kinds))]

    def word(self, value: str) -> str:
        return self.words[self.kinds.index(value)] if self.words else ""

    def ends(self) -> tuple[str, str]:
        return self.kinds[0], self.kinds[-1]

    def vocabulary(self) -> tuple[str, ...]:
        return self.words


Range = Number | Tone | Choice


def number(low: float, high: float, low_word: str = "", high_word: str = "") -> Any:
    """A field of a family's parameters that holds a number; its default is the middle of the range."""
    return field(default=(low + high) / 2, metadata={"range": Number(low, high, (low_word, high_word))})


def tone(names: dict[str, RGB], noun: str = "") -> Any:
    """A field that holds a colour; its default is the first one named."""
    return field(default=next(iter(names.values())), metadata={"range": Tone(tuple(names.items()), noun)})


def choice(*kinds: str, words: tuple[str, ...] = ()) -> Any:
    """A field that holds one of several kinds; its default is the first."""
    return field(default=kinds[0], metadata={"range": Choice(kinds, words)})


def ranges(parameters: Any) -> dict[str, Range]:
    """The range of each parameter of a family, by name."""
    return {one.name: one.metadata["range"] for one in fields(parameters)}


def sample(parameters: type, rng: np.random.Generator) -> Any:
    return parameters(**{name: over.sample(rng) for name, over in ranges(parameters).items()})


def words_of(parameters: Any) -> tuple[str, ...]:
    """The words for all that can be said of a member, in the order of its parameters."""
    said = (over.word(getattr(parameters, name)) for name, over in ranges(parameters).items())
    return tuple(word for word in said if word)


def vocabulary(parameters: type) -> set[str]:
    """Every single word that `words_of` may use for this family."""
    phrases = (phrase for over in ranges(parameters).values() for phrase in over.vocabulary())
    return {word for phrase in phrases for word in phrase.split()}


INKS: dict[str, RGB] = {
    "black": (0.10, 0.09, 0.12),
    "blue": (0.13, 0.22, 0.62),
    "brown": (0.38, 0.21, 0.10),
    "red": (0.66, 0.12, 0.14),
    "green": (0.06, 0.36, 0.22),
    "purple": (0.36, 0.14, 0.48),
}
PAPERS: dict[str, RGB] = {
    "white": (0.97, 0.96, 0.94),
    "cream": (0.96, 0.89, 0.74),
    "grey": (0.76, 0.77, 0.79),
    "pink": (0.97, 0.83, 0.82),
    "blue": (0.77, 0.87, 0.95),
    "brown": (0.80, 0.66, 0.49),
}
