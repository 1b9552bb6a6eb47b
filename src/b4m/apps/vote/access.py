"""Who may vote: everybody on this machine, who knows the password, or who has a link of one's own."""

import hashlib
import os
from dataclasses import dataclass
from hmac import compare_digest
from pathlib import Path

from ...core.errors import UserError
from ...core.storage import reason, write_text
from .questions import LINKS
from .settings import ServeConfig
from .store import Store

MIN_PASSWORD = 8  # letters


@dataclass(frozen=True)
class Access:
    """The way in. password: sha256 of it, None where none is asked for."""

    password: bytes | None = None
    links_only: bool = False

    def admits(self, password: str) -> bool:
        """Whether a newcomer without a link may join."""
        if self.links_only:
            return False
        return self.password is None or compare_digest(self.password, _digest(password))


def access(config: ServeConfig) -> Access:
    """The way in that the settings choose. Raises UserError for a password that is too short or cannot be read."""
    if config.password_file is None:
        return Access(links_only=bool(config.links))
    path = Path(config.password_file)
    try:
        password = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--password-file {path}: cannot be read as text ({reason(error)})") from error
    if len(password) < MIN_PASSWORD:
        raise UserError(
            f"--password-file {path}: {len(password)} letters; write {MIN_PASSWORD} or more into it"
        )
    return Access(password=_digest(password))


def invite(folder: Path, store: Store, count: int) -> list[str]:
    """So many tokens in all, those of earlier runs among them; kept in LINKS, which only its owner may read.

    Tokens are written down before the store knows them: a link that was given to somebody stays good after a crash.
    """
    path = folder / LINKS
    try:
        tokens = path.read_text(encoding="utf-8").split() if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({reason(error)})") from error
    fresh = store.tokens(count - len(tokens))
    if fresh:
        tokens += fresh
        write_text(path, "".join(f"{token}\n" for token in tokens))
        os.chmod(path, 0o600)
    store.invite(tokens)
    return tokens


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.strip().encode()).digest()
