"""What in a prompt means something to other tools and nothing here: it is drawn as the words that stand there."""

import re
import sys
from collections.abc import Iterable

WORDS = "a prompt is plain words here, and these are read as they stand"
SYNTAX = {  # what other tools read otherwise -> what to say of it
    r"<(?:lora|lyco|hypernet):[^>]*>": "files are given with --lora-file, --content-file and --style-file",
    r"[(\[][^()\[\]]*:\s*-?\d*\.?\d+\s*[)\]]": f"no word has a weight; {WORDS}",  # (red:1.2), [a:b:0.5]
    r"\(\([^()]*\)\)|\)[+-]+|\)\d\.\d+": f"no word has a weight; {WORDS}",  # ((red)), (red)++, (red)1.2
    r"\{[^{}]*\|[^{}]*\}|__\w+__": f"no word is drawn by lot; {WORDS}",  # wildcards
    r"\bembedding:\S+": "no embedding is loaded",
    r"\b(?:BREAK|AND)\b": f"a prompt is one piece; {WORDS}",
}


def notes(prompts: Iterable[str | None]) -> list[str]:
    """A line for each prompt that is written for another tool."""
    found = []
    for prompt in filter(None, prompts):
        said: dict[str, list[str]] = {}
        for pattern, text in SYNTAX.items():
            said.setdefault(text, []).extend(match[0] for match in re.finditer(pattern, prompt))
        told = "; ".join(f"{' '.join(odd)}: {text}" for text, odd in said.items() if odd)
        if told:
            found.append(f"prompt {prompt!r}: {told}")
    return found


def say_notes(prompts: Iterable[str | None]) -> None:
    """`notes`, apart from what the command prints."""
    for note in notes(prompts):
        print(f"note: {note}", file=sys.stderr)
