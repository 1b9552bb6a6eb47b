"""Write a study's folder: its images under meaningless names and without metadata, and the file that knows them."""

import hashlib
import io
import os
import secrets
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...core.errors import UserError
from ...core.storage import PARTIAL, reason, write_text
from ...core.where import locate
from ...data.images import open_pictures
from .compose import compose
from .material import gather
from .questions import FILE, IMAGES, Question, Study, to_json
from .settings import MakeConfig

SMALL = 256  # pixels: an image whose sides are no longer stays as it is, to the bit
LARGE = 1024  # a longer side is scaled down: no screen shows more of it, and all methods are seen alike
MAX_CONSENT = 20_000  # letters
CONSENT = """You will see images that computer programs have made, and choose the ones that fit best.

Taking part is voluntary. You may stop at any time and go on later on this device; answers given until then are kept.

Stored are your answers and, if you like, an age band and how much you know of the field: no name, no address, nothing \
about your device. A cookie with a random number lets you go on where you stopped.

The answers are used to compare methods that make images. Tables of them, with nothing about you, may be published."""


def plan(config: MakeConfig) -> tuple[Study, dict[str, Path]]:
    """The study, and the file behind each image's name. Reads no image. Raises UserError."""
    material = gather(config.source, config.methods)
    names: dict[tuple[str, Path], str] = {}

    def name(method: str, path: Path) -> str:
        return names.setdefault((method, path), secrets.token_hex(12))

    questions = compose(material, config, name)
    study = Study(
        title=" ".join(config.title.split()),
        consent=_consent(config),
        key=secrets.token_hex(16),
        ours=config.ours or material.methods[0],
        methods=material.methods,
        votes=config.votes,
        checks=config.checks,
        questions=tuple(questions),
        images={},
    )
    return study, {given: path for (_, path), given in names.items()}


def make(config: MakeConfig) -> Path:
    """Write the study; its folder comes back. All of it or nothing. Raises UserError."""
    study, files = plan(config)
    folder = Path(config.output_dir)
    if folder.exists():
        raise UserError(f"--output-dir {folder}: is there already; give a new one, votes are never mixed")
    partial = folder.parent / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        (partial / IMAGES).mkdir(parents=True)
        hashes = {
            name: _publish(path, partial / IMAGES / name) for name, path in tqdm(files.items(), desc="images")
        }
        study = replace(study, images=hashes)
        _check_checks(study)
        write_text(partial / FILE, to_json(study))
        os.chmod(partial / FILE, 0o600)  # it knows which image is whose
        os.rename(partial, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({reason(error)}); choose another place") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _publish(path: Path, target: Path) -> str:
    """Write an image's pixels and nothing else of it; the sha256 of what was written."""
    image = open_pictures(path)[0]
    image.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS)
    bare = Image.fromarray(np.asarray(image))  # colour profiles, comments and prompts stay behind
    data = io.BytesIO()
    bare.save(data, "WEBP", lossless=max(bare.size) <= SMALL, quality=90)
    target.write_bytes(data.getvalue())
    return hashlib.sha256(data.getvalue()).hexdigest()


def _check_checks(study: Study) -> None:
    """Raise UserError for an attention check with two right answers."""
    for question in study.questions:
        if question.right and any(
            _same(study, question, option.images[0]) for option in question.options[1:]
        ):
            raise UserError(
                f"pair {question.pair!r}: an image of a method is the content reference itself; take it out of "
                "the folder, or do without attention checks (--checks 0)"
            )


def _same(study: Study, question: Question, name: str) -> bool:
    return study.images[name] == study.images[question.content[0]]


def _consent(config: MakeConfig) -> str:
    if config.consent is None:
        return CONSENT
    path = Path(locate(config.consent))
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--consent {path}: cannot be read as UTF-8 text ({reason(error)})") from error
    if not text.strip() or len(text) > MAX_CONSENT:
        raise UserError(
            f"--consent {path}: {len(text):,} letters; between 1 and {MAX_CONSENT:,} are expected"
        )
    return text
