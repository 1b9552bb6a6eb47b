"""Evaluation: draw or read images, score each against its references and prompt, sum up over pairs, write it down."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..core.errors import UserError, printable
from ..data.dataset import called
from ..data.findings import lines
from ..data.folder import look
from ..data.images import open_pictures
from ..data.references import references
from ..files.lora import triggers
from ..files.opening import open_any, sources
from ..sampling.attach import attach
from ..sampling.prompts import say_notes
from ..sampling.sample import SAMPLES_AT_ONCE, drawn_with, open_for, sample_with, save_png
from .extractors import Extractor, load_extractor
from .manifest import ASPECTS, Shot, in_plain_words, read_manifest, write_manifest
from .metrics import alignment, diversity
from .report import check_baseline, figure_class, summarise, write_results
from .settings import EvaluateConfig
from .vlm import Vlm, load_vlm

AT_ONCE = 64  # images in memory
VERSIONS = ("b4m", "torch", "transformers", "diffusers", "numpy", "pillow", "open_clip_torch")


@dataclass(frozen=True)
class Extractors:
    """Who looks at the images: one model for each alignment, and a classifier for each aspect that has labels."""

    content: Extractor  # paper: DINOv2
    style: Extractor  # paper: CLIP
    prompt: Extractor  # paper: CLIP; must read texts. Diversity is measured with it: it is blind to nothing
    judges: Mapping[str, Extractor] = field(default_factory=dict)  # by one of ASPECTS
    csd: Extractor | None = None  # a second one for styles, `csd`
    vlm: Vlm | None = None  # asked yes or no of every image


def load_extractors(
    content: str,
    style: str,
    prompt: str,
    judges: Mapping[str, str] | None = None,
    device: torch.device | str = "cpu",
    cache: Path | str | None = None,
    csd: str | None = None,
    vlm: str | None = None,
) -> Extractors:
    """Extractors by their specs (see `load_extractor`), one for each spec; vlm: see `load_vlm`. Raises UserError."""
    judges = judges or {}
    wanted = {content, style, prompt, *judges.values(), *([csd] if csd else [])}
    loaded = {spec: load_extractor(spec, device, cache) for spec in wanted}
    loaded[prompt].texts(["a picture"])  # a prompt extractor without a text tower is refused at once
    for spec in judges.values():
        if not loaded[spec].labels:
            raise UserError(f"classifier {spec}: it names no classes; give the folder of an image classifier")
    found = {aspect: loaded[spec] for aspect, spec in judges.items()}
    return Extractors(
        loaded[content],
        loaded[style],
        loaded[prompt],
        found,
        loaded[csd] if csd else None,
        load_vlm(vlm, device, cache) if vlm else None,
    )


def score(shots: Sequence[Shot], extractors: Extractors, progress: bool = True) -> list[dict[str, Any]]:
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
    references: dict[tuple[int, Path], Tensor] = {}

    def aligned(extractor: Extractor, features: Tensor, folders: Sequence[Path]) -> list[float]:
        for folder in folders:
            if (id(extractor), folder) not in references:
                references[id(extractor), folder] = extractor.images(open_pictures(folder))
        known = (references[id(extractor), folder] for folder in folders)
        return [float(alignment(row[None], them)) for row, them in zip(features, known, strict=True)]

    records: list[dict[str, Any]] = []
    groups: dict[tuple, list[tuple[dict[str, Any], Tensor]]] = defaultdict(list)
    bar = tqdm(total=len(shots), desc="scoring", disable=not progress)
    for start in range(0, len(shots), AT_ONCE):
        some = shots[start : start + AT_ONCE]
        pictures = [open_pictures(shot.file)[0] for shot in some]
        features = extractors.content.images(pictures)
        content = aligned(extractors.content, features, [shot.content_dir for shot in some])
        styles = [shot.style_dir for shot in some]
        style = aligned(extractors.style, extractors.style.images(pictures), styles)
        csd = (
            [] if extractors.csd is None else aligned(extractors.csd, extractors.csd.images(pictures), styles)
        )
        texts = extractors.prompt.texts([shot.prompt for shot in some])
        seen = extractors.prompt.images(pictures)
        prompt = [float(alignment(row[None], text[None])) for row, text in zip(seen, texts, strict=True)]
        verdicts = {aspect: judge.classify(pictures) for aspect, judge in extractors.judges.items()}
        for index, shot in enumerate(some):
            record = {
                **_identity(shot),
                "content": content[index],
                "style": style[index],
                "prompt": prompt[index],
            }
            record["average"] = (record["content"] + record["style"] + record["prompt"]) / 3
            if csd:
                record["csd"] = csd[index]
            if extractors.vlm is not None:
                folders = shot.content_dir, shot.style_dir
                record |= extractors.vlm.scores(pictures[index], *folders, shot.prompt)
            record |= _judged(shot, {aspect: names[index] for aspect, names in verdicts.items()})
            records.append(record)
            group = (shot.row, shot.pair, shot.prompt, shot.training_seed)
            groups[group].append((record, seen[index]))
            bar.update()
    bar.close()
    for members in groups.values():
        if len(members) > 1:
            value = diversity(torch.stack([row for _, row in members]))
            for record, _ in members:
                record["diversity"] = value
    _add_weaker(records, "content_right", "style_right", "weaker_right")
    _add_weaker(records, "vlm_content", "vlm_style", "vlm_weaker")
    return records


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


def _add_weaker(records: Sequence[dict[str, Any]], content: str, style: str, weaker: str) -> None:
    """`weaker` of each image with both verdicts, `content` and `style`: the lower of their means over the images of its
    row, pair and training seed; so a row that copies the content and forgets the style has 0.
    """
    groups: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if content in record and style in record:
            cell = (record[name] for name in ("row", "content_name", "style_name", "training_seed"))
            groups[*cell].append(record)
    for members in groups.values():
        value = min(fmean(one[name] for one in members) for name in (content, style))
        for record in members:
            record[weaker] = value


def provenance(extractors: Extractors) -> dict[str, Any]:
    """What the scores were made with: names and fingerprints of the models, versions of the packages."""
    models: dict[str, Extractor | Vlm] = {
        "content": extractors.content,
        "style": extractors.style,
        "prompt": extractors.prompt,
    }
    if extractors.csd is not None:
        models["csd"] = extractors.csd
    if extractors.vlm is not None:
        models["vlm"] = extractors.vlm
    models |= {f"{aspect} judge": judge for aspect, judge in extractors.judges.items()}
    versions = {}
    for package in VERSIONS:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # open_clip is optional
            continue
    named = {role: {"name": model.name, "sha256": model.fingerprint} for role, model in models.items()}
    return {"extractors": named, "versions": versions}


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """The job behind `b4m evaluate`: images of a manifest, or drawn first; what results.json holds comes back.

    As `score_all`.
    """
    return score_all(config)[1]


def score_all(config: EvaluateConfig) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records of all images, as `score` gives them, and what results.json holds.

    Continues where it was stopped: whole images of the same settings and features already computed are kept.
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
        output / "features",
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
    made = {**provenance(extractors), "settings": _drawn_with(config) if not config.pictures else {}}
    return records, write_results(output, records, summary, shots, made)


def planned(config: EvaluateConfig) -> list[Shot]:
    """The images that `draw_missing` makes of a concept pair or a LoRA file: every prompt with every seed.

    Raises UserError: files that cannot be read, prompts that differ in trigger words only.
    """
    folder = Path(config.output_dir).absolute() / "pictures"
    given = str(config.content_dir), str(config.style_dir)
    content, style = (references(path).absolute() for path in given)
    of_content, of_style = (Path(called(path)).stem for path in given)
    words = _triggers(config)
    plain = [in_plain_words(prompt, words) for prompt in config.prompts]
    if len(set(plain)) < len(plain):
        raise UserError(
            f"--prompts: two are the same without {', '.join(words)}; scores could not tell them apart"
        )
    return [
        Shot(folder / f"{index:03d}_seed{seed}.png", prompt, seed, of_content, of_style, content, style)
        for index, prompt in enumerate(plain)
        for seed in config.seeds
    ]


def _triggers(config: EvaluateConfig) -> list[str]:
    """The trigger words that the files name. A phrase of several words, from elsewhere, holds plain ones: it stays."""
    files = [path for path in (config.content_file, config.style_file, config.lora_file) if path]
    phrases = [phrase for path in files for phrase in triggers(open_any(path).metadata)]
    words = [word.strip() for phrase in phrases for word in phrase.split(",")]
    return [word for word in words if word and " " not in word]


def draw_missing(config: EvaluateConfig, shots: Sequence[Shot]) -> None:
    """Draw those of `shots` (`planned`) that are not there, whole and so made; then the manifest beside them."""
    settings = _drawn_with(config)
    asked = [
        (shot.file, prompt, seed)
        for shot, (prompt, seed) in zip(shots, product(config.prompts, config.seeds), strict=True)
    ]
    missing = [each for each in asked if not _is_drawn(*each, settings)]
    if missing:
        say_notes([*config.prompts, config.negative_prompt])
        backbone = open_for(config)
        attach(backbone, config.content_file, config.style_file, config.lora_file, config.strict)
        bar = tqdm(total=len(shots), initial=len(shots) - len(missing), desc="drawing")
        for start in range(0, len(missing), SAMPLES_AT_ONCE):
            some = missing[start : start + SAMPLES_AT_ONCE]
            _, prompts, seeds = zip(*some, strict=True)
            pictures = sample_with(backbone, config, prompts, seeds)
            for (file, prompt, seed), picture in zip(some, pictures, strict=True):
                save_png(file, picture, _facts(prompt, seed, settings))
            bar.update(len(some))
        bar.close()
    write_manifest(shots[0].file.parent, shots)


def _drawn_with(config: EvaluateConfig) -> dict[str, str]:
    """What decides an image besides prompt and seed: settings, and the bytes of the files it is drawn with."""
    settings = drawn_with(config)
    for name in ("content_file", "style_file", "lora_file", "base_lora"):
        if name in settings:
            digest = hashlib.sha256()
            try:
                for source in sources(settings[name]):
                    with source.open("rb") as file:
                        hashlib.file_digest(file, lambda digest=digest: digest)
                settings[f"{name}_sha256"] = digest.hexdigest()
            except OSError as error:
                raise UserError(
                    f"{settings[name]}: cannot be read ({error.strerror}); give a file"
                ) from error
    return settings


def _facts(prompt: str, seed: int, settings: Mapping[str, str]) -> dict[str, str]:
    return {"prompt": prompt, "seed": str(seed), **settings}


def _is_drawn(file: Path, prompt: str, seed: int, settings: Mapping[str, str]) -> bool:
    """Whether the image is there, whole, and says that it was drawn like this."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            picture.load()
            return getattr(picture, "text", None) == _facts(prompt, seed, settings)
    except Exception:  # absent, cut off, or no image: in each case it is drawn again
        return False
