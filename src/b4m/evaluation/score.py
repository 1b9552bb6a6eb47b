"""Scores of images: each against its references and its prompt, and right or wrong where classifiers look."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError
from ..data.images import open_pictures
from .extractors import Extractor
from .manifest import Shot
from .metrics import alignment, diversity
from .panel import Extractors

AT_ONCE = 64  # images in memory
GROUP = (
    "row",
    "content_name",
    "style_name",
    "training_seed",
)  # names the images of one row, pair and training seed

Record = dict[str, Any]


def score(shots: Sequence[Shot], extractors: Extractors, progress: bool = True) -> list[Record]:
    """One record per image, in their order: who it is (`report.IDENTITY`) and its scores (`report.SCORES`).

    content, style: cosine with the references, averaged over them; prompt: with the prompt; average of the three
    (paper, Table 1). csd: style once more, with Contrastive Style Descriptors. diversity: of the images that differ in
    the seed only, as the prompt extractor sees them, the same number for each of them.
    With classifiers and labels 0 or 1: *_right, both_right, and leak_* where a classifier names something of the
    shot's leaks that was not asked for; *_verdict is what was named. vlm_*: as a vision-language model answers (`Vlm`).
    weaker_right, vlm_weaker: of the images of one row, pair and training seed, as `_add_weaker` says.
    A score that does not apply is absent.
    Raises UserError: images that cannot be read, labels or leaks that the classifier has no class for.
    """
    for shot in shots:
        _check_labels(shot, extractors.judges)
    look = _Look(extractors)
    records: list[Record] = []
    seen: list[Tensor] = []  # features of the images, as the prompt extractor sees them
    with tqdm(total=len(shots), desc="scoring", disable=not progress) as bar:
        for start in range(0, len(shots), AT_ONCE):
            some = shots[start : start + AT_ONCE]
            found, features = look.at(some)
            records += found
            seen += features
            bar.update(len(some))
    _add_diversity(records, seen)
    _add_weaker(records, "content_right", "style_right", "weaker_right")
    _add_weaker(records, "vlm_content", "vlm_style", "vlm_weaker")
    return records


class _Look:
    """Looks at images, and remembers what each extractor saw in the references."""

    def __init__(self, extractors: Extractors):
        self._extractors = extractors
        self._references: dict[tuple[int, Path], Tensor] = {}

    def at(self, shots: Sequence[Shot]) -> tuple[list[Record], Tensor]:
        """Records without what groups of images share, and features (N, d) of the prompt extractor."""
        panel = self._extractors
        pictures = [open_pictures(shot.file)[0] for shot in shots]
        contents, styles = [shot.content_dir for shot in shots], [shot.style_dir for shot in shots]
        texts = panel.prompt.texts([shot.prompt for shot in shots])
        seen = panel.prompt.images(pictures)
        columns = {
            "content": self._aligned(panel.content, panel.content.images(pictures), contents),
            "style": self._aligned(panel.style, panel.style.images(pictures), styles),
            "prompt": [
                float(alignment(row[None], text[None])) for row, text in zip(seen, texts, strict=True)
            ],
        }
        columns["average"] = [sum(three) / 3 for three in zip(*columns.values(), strict=True)]
        if panel.csd is not None:
            columns["csd"] = self._aligned(panel.csd, panel.csd.images(pictures), styles)
        verdicts = {aspect: judge.classify(pictures) for aspect, judge in panel.judges.items()}
        records = []
        for index, shot in enumerate(shots):
            record = _identity(shot) | {name: values[index] for name, values in columns.items()}
            if panel.vlm is not None:
                record |= panel.vlm.scores(pictures[index], shot.content_dir, shot.style_dir, shot.prompt)
            records.append(
                record | _judged(shot, {aspect: names[index] for aspect, names in verdicts.items()})
            )
        return records, seen

    def _aligned(self, extractor: Extractor, features: Tensor, folders: Sequence[Path]) -> list[float]:
        """Of each image's features the mean cosine with those of the pictures in its folder."""
        for folder in folders:
            if (id(extractor), folder) not in self._references:
                self._references[id(extractor), folder] = extractor.images(open_pictures(folder))
        known = (self._references[id(extractor), folder] for folder in folders)
        return [float(alignment(row[None], them)) for row, them in zip(features, known, strict=True)]


def _identity(shot: Shot) -> dict[str, Any]:
    return {
        "file": str(shot.file),
        "row": shot.row,
        "content_name": shot.content,
        "style_name": shot.style,
        "prompt_text": shot.prompt,
        "seed": shot.seed,
        "training_seed": shot.training_seed,
    }


def _check_labels(shot: Shot, judges: Mapping[str, Extractor]) -> None:
    for aspect, judge in judges.items():
        asked = [shot.labels[aspect]] if aspect in shot.labels else []
        for name in (*asked, *shot.leaks.get(aspect, ())):
            if name not in judge.labels:
                raise UserError(
                    f"{shot.file}: {aspect} {name!r} is no class of the classifier {judge.name}; "
                    f"it knows {', '.join(judge.labels)}"
                )


def _judged(shot: Shot, verdicts: Mapping[str, str]) -> dict[str, Any]:
    """Right or wrong, leaked or not, as 0 and 1, for every aspect with a verdict and a label or leaks."""
    found: dict[str, Any] = {f"{aspect}_verdict": name for aspect, name in verdicts.items()}
    for aspect, name in verdicts.items():
        if aspect in shot.labels:
            found[f"{aspect}_right"] = int(name == shot.labels[aspect])
        if aspect in shot.leaks:
            leaked = name in shot.leaks[aspect] and name != shot.labels.get(aspect)
            found[f"leak_{aspect}"] = int(leaked)
    if "content_right" in found and "style_right" in found:
        found["both_right"] = found["content_right"] * found["style_right"]
    return found


def _add_diversity(records: Sequence[Record], seen: Sequence[Tensor]) -> None:
    """`diversity` of images that differ in the seed only, where there are several."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        groups[*(record[name] for name in (*GROUP, "prompt_text"))].append(index)
    for members in groups.values():
        if len(members) > 1:
            value = diversity(torch.stack([seen[index] for index in members]))
            for index in members:
                records[index]["diversity"] = value


def _add_weaker(records: Sequence[Record], content: str, style: str, weaker: str) -> None:
    """`weaker` of each image with both verdicts, `content` and `style`: the lower of their means over the images of its
    row, pair and training seed; so a row that copies the content and forgets the style has 0.
    """
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        if content in record and style in record:
            groups[*(record[name] for name in GROUP)].append(record)
    for members in groups.values():
        value = min(fmean(one[name] for one in members) for name in (content, style))
        for record in members:
            record[weaker] = value
