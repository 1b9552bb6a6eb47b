"""Evaluation: draw or read images, score each against its references and prompt, sum up over pairs, write it down."""

from pathlib import Path
from typing import Any

import torch

from ..core.errors import printable
from ..data.findings import lines
from ..data.folder import look
from .drawing import draw_missing, planned, settings_of
from .manifest import ASPECTS, read_manifest
from .panel import load_extractors, provenance
from .report import check_baseline, figure_class, summarise, write_results
from .score import score
from .settings import EvaluateConfig

FEATURES = "features"  # the folder of what models saw in images


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The job behind `b4m evaluate`: images of a manifest, or drawn first; what results.json holds comes back.

    As `score_all`.
    """
    return score_all(config)[1]


def score_all(
    config: EvaluateConfig, features: Path | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of all images, as `score` gives them, and what results.json holds.

    Continues where it was stopped: whole images of the same settings are kept, and what a model saw in an image
    is kept in `features` (default: a folder of the output's).
    Raises UserError; models and names are checked before anything is drawn.
    """
    figure_class()
    shots = read_manifest(config.pictures) if config.pictures else planned(config)
    check_baseline(dict.fromkeys(shot.row for shot in shots), config.baseline)
    output = Path(config.output_dir)
    judges = {aspect: getattr(config, f"{aspect}_judge") for aspect in ASPECTS}
    extractors = load_extractors(
        config.content_extractor,
        config.style_extractor,
        config.prompt_extractor,
        {
            aspect: spec
            for aspect, spec in judges.items()
            if spec and any(aspect in shot.labels or aspect in shot.leaks for shot in shots)
        },
        "cuda" if torch.cuda.is_available() else "cpu",
        features or output / FEATURES,
        config.csd_extractor,
        config.vlm,
    )
    if not config.pictures:
        draw_missing(config, shots)
    for folder in dict.fromkeys(folder for shot in shots for folder in (shot.content_dir, shot.style_dir)):
        for line in lines(look(folder).left_out):
            print(f"{printable(folder)}: {printable(line)}")
    records = score(shots, extractors)
    summary = summarise(records, config.baseline)
    made = {**provenance(extractors), "settings": settings_of(config) if not config.pictures else {}}
    return records, write_results(output, records, summary, shots, made)
