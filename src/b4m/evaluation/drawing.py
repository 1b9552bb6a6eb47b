"""The images that an evaluation is asked for, drawn where they are not there yet."""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..core.errors import UserError
from ..data.dataset import called
from ..data.references import references
from ..files.lora import triggers
from ..files.opening import open_any, sources
from ..sampling.prompts import say_notes
from ..sampling.sample import SAMPLES_AT_ONCE, attach_for, drawn_with, open_for, sample_with, save_png
from .manifest import Shot, in_plain_words, write_manifest
from .settings import EvaluateConfig


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
    files = [
        path
        for path in (config.content_file, config.style_file, config.lora_file, *config.more_files)
        if path
    ]
    phrases = [phrase for path in files for phrase in triggers(open_any(path).metadata)]
    words = [word.strip() for phrase in phrases for word in phrase.split(",")]
    return [word for word in words if word and " " not in word]


def draw_missing(config: EvaluateConfig, shots: Sequence[Shot]) -> None:
    """Draw those of `shots` (`planned`) that are not there, whole and so made; then the manifest beside them."""
    settings = settings_of(config)
    asked = [
        (shot.file, prompt, seed)
        for shot, (prompt, seed) in zip(shots, product(config.prompts, config.seeds), strict=True)
    ]
    missing = [each for each in asked if not _is_drawn(*each, settings)]
    if missing:
        say_notes([*config.prompts, config.negative_prompt])
        backbone = open_for(config)
        attach_for(backbone, config)
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


def settings_of(config: EvaluateConfig) -> dict[str, str]:
    """What decides an image besides prompt and seed: settings, and the bytes of the files it is drawn with."""
    settings = drawn_with(config)
    for name in ("content_file", "style_file", "lora_file", "base_lora", "more_files"):
        given = getattr(config, name)
        if given:
            settings[f"{name}_sha256"] = _bytes_of(given if isinstance(given, tuple) else (given,))
    return settings


def _bytes_of(files: Sequence[str]) -> str:
    """A digest of what they hold. Raises UserError for one that cannot be read."""
    digest = hashlib.sha256()
    for path in files:
        try:
            for source in sources(path):
                with source.open("rb") as file:
                    hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); give a file") from error
    return digest.hexdigest()


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
