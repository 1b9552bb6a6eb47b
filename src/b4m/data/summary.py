"""What a training says of its images and captions before it begins, and writes to pictures.json."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core.errors import printable
from .findings import Finding, lines, quoted, some
from .inputs import Inputs, Source

UNCHECKED = "captions: not checked for their length, since the base model's tokenizer is not on this machine"


@dataclass(frozen=True)
class Cut:
    """How long a prompt a base model reads, and what of each prompt comes after that."""

    limit: int  # tokens
    words: tuple[str, ...]  # of each prompt, "" for most


@dataclass(frozen=True)
class Summary:
    """For the terminal and for pictures.json."""

    lines: list[str]
    entries: list[dict]


def summarise(inputs: Inputs, cut: Cut | None) -> Summary:
    """cut: of the inputs' prompts; None where the tokenizer is not at hand."""
    words = cut.words if cut else ("",) * len(inputs.prompts)
    findings = [*inputs.findings, *_without_trigger(inputs, words)]
    if cut:
        long = f"caption longer than the {cut.limit} tokens that this base model reads, cut off"
        findings += [
            Finding(image.path, long, quoted(rest))
            for image, rest in zip(inputs.images, words, strict=True)
            if rest
        ]
    told = [*_heads(inputs), *lines(findings), *([] if cut else [UNCHECKED])]
    return Summary([printable(line) for line in told], _entries(inputs, findings))


def _heads(inputs: Inputs) -> Iterator[str]:
    """How many images there are of each kind, and where their prompts come from."""
    of_kind: dict[str, list[int]] = {}
    for source in inputs.sources:
        if not source.prior:
            of_kind.setdefault(_shows(source), []).extend(source.images)
    for kind, numbers in of_kind.items():
        images = [inputs.images[number] for number in numbers]
        origins = Counter(image.caption_from for image in images if image.caption)
        built = dict.fromkeys(
            inputs.prompts[number] for number in numbers if not inputs.images[number].caption
        )
        parts = [f"{count} from {origin}" for origin, count in origins.items()]
        if built:
            missing = len(images) - origins.total()
            parts.append(f"{missing} missing (used: {some([quoted(prompt) for prompt in built])})")
        yield f"{kind}: {_images(len(images))}; captions: {', '.join(parts)}"
    for source in inputs.sources:
        if source.prior:
            yield _drawn(inputs, source)


def _drawn(inputs: Inputs, source: Source) -> str:
    """Of what a model draws itself: images of a class, or a teacher's paths."""
    prompts = some([quoted(prompt) for prompt in dict.fromkeys(inputs.prompts[i] for i in source.images)])
    if source.label == "prior":
        return f"prior: {_images(len(source.images))} drawn by the base model of {prompts}"
    return f"{source.label}: {len(source.images)} path{'s'[: len(source.images) != 1]} of {prompts}"


def _images(count: int) -> str:
    return f"{count} image{'s'[: count != 1]}"


def _shows(source: Source) -> str:
    return f"{'partner ' * source.partner}{'prior ' * source.prior}{source.kind}"


def _without_trigger(inputs: Inputs, cut: Sequence[str]) -> Iterator[Finding]:
    """Images whose prompts, as far as they are read, do not hold the word that will call their concept."""
    for source in inputs.sources:
        if not source.trigger:
            continue
        without = [
            number
            for number in source.images
            if _count(source.trigger, inputs.prompts[number]) <= _count(source.trigger, cut[number])
        ]
        if len(without) == len(source.images):
            what = f"no caption holds the word {source.trigger} (it will not call the {source.kind})"
        else:
            what = f"caption without the word {source.trigger} that will call the {source.kind}"
        yield from (Finding(inputs.images[number].path, what) for number in without)


def _count(word: str, text: str) -> int:
    """How often the text holds the word, in any letter case and any Unicode form."""
    word, text = (unicodedata.normalize("NFC", each).casefold() for each in (word, text))
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text))


def _entries(inputs: Inputs, findings: Sequence[Finding]) -> list[dict]:
    """Which images fill the samples, under which prompts; then the other files of which there is something to say."""
    notes: dict[str, list[str]] = {}
    for finding in findings:
        notes.setdefault(str(finding.file), []).append(finding.text)
    entries = []
    for source in inputs.sources:
        for number in source.images[: 1 if source.prior else None]:  # a prior's are all in one file
            image = inputs.images[number]
            entry = {
                "file": str(image.path),
                "sha256": image.sha256 or None,
                "prompt": inputs.prompts[number],
                "prompt_from": image.caption_from if image.caption else "settings",
                "shows": _shows(source),
                "notes": notes.get(str(image.path), []),
            }
            entries.append(entry)
    used = {entry["file"] for entry in entries}
    return entries + [
        {
            "file": file,
            "sha256": None,
            "prompt": None,
            "prompt_from": None,
            "shows": "nothing",
            "notes": texts,
        }
        for file, texts in notes.items()
        if file not in used
    ]
