"""Settings of `b4m push`."""

import re
from dataclasses import dataclass

from ...config.fields import InputPath, check, setting
from ...core.errors import UserError

NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
HUB_NAME = re.compile(
    rf"{NAME}/{NAME}"
)  # of a repository there: what the hub takes, without its rarer spellings
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")


@dataclass(frozen=True)
class PushConfig:
    """Settings of one push. A licence has no default: nobody but the owner of the images can choose one."""

    file: InputPath = setting(
        "the content, style, fused or ordinary LoRA file; or a folder of them, as of b4m library or b4m studio"
    )
    repo: str = setting("repository on the hub, owner/name; made where there is none")
    license: str = setting(
        "licence of the file as the hub spells it: cc-by-4.0, openrail++, other, ...; yours to choose"
    )
    images: tuple[InputPath, ...] = setting(
        "images for the card, files or folders; they are copied without their metadata", ()
    )
    scores: InputPath | None = setting("results.json of b4m evaluate, whose scores the card shows", None)
    base_model: str | None = setting(
        "the base model's name on the hub, where the file names none or a folder", None
    )
    public: bool = setting("let everybody see it; without, a repository is private", False)

    def __post_init__(self) -> None:
        check(self)
        for flag, name in (("--repo", self.repo), ("--base-model", self.base_model)):
            if name is not None and not on_hub(name):
                raise UserError(
                    f"{flag} {name}: expected owner/name, of letters, digits, '-', '_' and single '.'"
                )
        if not LICENSE.fullmatch(self.license):
            raise UserError(
                f"--license {self.license}: expected the hub's short name of one, as cc-by-4.0 or other "
                "(https://huggingface.co/docs/hub/repositories-licenses)"
            )


def on_hub(name: str) -> bool:
    """Whether a repository on the hub may have this name."""
    return bool(HUB_NAME.fullmatch(name)) and not re.search(r"\.\.|--|\.git$", name)
