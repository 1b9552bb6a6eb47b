"""How a library calls its work: by what decides it and by what its images show, not by where they lie."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.fields import deciding
from ..config.sampling import GenerateConfig
from ..config.training import JobConfig
from ..core.errors import UserError
from ..core.where import locate
from ..data.identity import Identity, file_hash, identity, is_reference
from ..data.partners import partner_words
from .file import Study
from .plan import Names, Training

PER_IMAGE = ("prompts", "seeds")  # which say how many images there are, not what one looks like


class ByContent(Names):
    """Folders that are moved or copied, with their images or with the results, are the same work.

    A drawing's folder takes more images when prompts or seeds are added: an image is called by its own.
    """

    def key(self, config: JobConfig | GenerateConfig, made: Mapping[str, str]) -> str:
        """Raises UserError for references that cannot be read."""
        plain = {f.name for f in deciding(type(config))}
        facts: dict[str, Any] = {}
        for f in deciding(type(config), paths=True):
            value = getattr(config, f.name)
            if value == f.default or isinstance(config, GenerateConfig) and f.name in PER_IMAGE:
                continue
            if f.name not in plain:
                value = [self._behind(path, made) for path in ([value] if isinstance(value, str) else value)]
            facts[f.name] = value
        if not isinstance(config, GenerateConfig):
            facts["stage"] = config.stage
            facts["partners called"] = self._called(config)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def check(self, training: Training) -> None:
        """A library takes days, and its images may be changed meanwhile: they are read again."""
        made = {str(path): key for path, key in training.needs.items() if key}
        if not training.folder.name.endswith(ByContent().key(training.config, made)):
            raise UserError(
                f"{training.folder}: the images of this {training.config.stage} have changed since the library began; "
                "run the same command again"
            )

    def concept(self, study: Study, folder: str) -> str:
        return re.sub(r"\W+", "_", study.word(folder))

    @staticmethod
    def image(number: int, prompt: str, seed: int) -> str:
        return f"{hashlib.sha256(prompt.encode()).hexdigest()[:8]}_seed{seed}.png"

    def _behind(self, path: str, made: Mapping[str, str]) -> Any:
        """What an input path leads to: a training's key, images and captions, or a file's bytes."""
        if path in made:
            return made[path]
        return self.references(path) if is_reference(path) else file_hash(Path(locate(path)))

    def _called(self, config: JobConfig) -> list[str | None]:
        """The names that partners without captions are called by: they stand in the prompts they are learned with."""
        if getattr(config, "partner_prompts", ()):
            return []
        paths = getattr(config, "partner_dirs", ())
        captioned = [all(caption for _, caption in self.references(path)) for path in paths]
        return [None if own else partner_words(path) for path, own in zip(paths, captioned, strict=True)]

    def references(self, path: str) -> Identity:
        """`identity`, read once."""
        if path not in self._known:
            self._known[path] = identity(path)
        return self._known[path]

    @cached_property
    def _known(self) -> dict[str, Identity]:
        return {}
