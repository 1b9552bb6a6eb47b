"""A trigger word, looked at before it costs a training: how many tokens it takes, and whether it means something."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

Tokens = Callable[[str], Sequence[str]]  # a word as the base model's tokenizer cuts it
MANY = 4  # tokens from which a word takes room that the rest of a prompt needs
DEFAULTS = {"content": "snq", "style": "w@z"}  # the published ones


@dataclass(frozen=True)
class Advice:
    """good: True fine, None worth knowing, False it will not work."""

    good: bool | None
    text: str


def look(trigger: str, class_word: str, tokens: Tokens, taken: Iterable[tuple[str, str]] = ()) -> Advice:
    """taken: (trigger, name) of the other concepts."""
    word = " ".join(trigger.split())
    if not word:
        return Advice(False, "A trigger word is needed: a made-up one, such as snq or w@z.")
    if " " in word:
        return Advice(False, "One word, without spaces: it stands before the class word in every prompt.")
    if any(letter in word for letter in "<>|()[]{}\"'\\,:"):
        return Advice(False, "Letters, digits and @ - _ only: other tools read the rest as something else.")
    if not class_word.strip():
        return Advice(False, "A class word is needed: what it is, in plain words (teddybear, yarn art).")
    pieces = list(tokens(word))
    count = f"{len(pieces)} token{'s' if len(pieces) != 1 else ''}"
    if word.lower() == class_word.strip().lower():
        return Advice(
            False, "The trigger is the class word itself: every such thing would be drawn like yours."
        )
    for other, name in taken:
        if other == word:
            return Advice(None, f"{count}; {name} has the same trigger: fine alone, confusing in one prompt.")
    if len(pieces) == 1:
        return Advice(
            None, f"{count}: a word that the base model knows already; its meaning gets in the way."
        )
    if len(pieces) > MANY:
        return Advice(None, f"{count} of a prompt's 75: a shorter made-up word leaves more room.")
    return Advice(True, f"{count}, no word that the base model knows: good.")
