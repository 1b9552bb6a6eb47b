"""Votes on the disk: SQLite, one transaction for each vote, flushed before anybody is told that it counts."""

import hashlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError
from ...core.storage import reason

VERSION = 1
SCHEMA = """
CREATE TABLE study (key TEXT NOT NULL) STRICT;
CREATE TABLE voters (
    token TEXT PRIMARY KEY,  -- sha256 of the number in the voter's cookie
    number INTEGER UNIQUE,   -- 0, 1, ... in the order of joining; NULL: invited, has not joined
    age TEXT NOT NULL DEFAULT '',
    expertise TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE votes (
    voter INTEGER NOT NULL REFERENCES voters (number),
    question TEXT NOT NULL,
    chosen TEXT NOT NULL,    -- the method
    shown TEXT NOT NULL,     -- JSON list: the methods in the order in which this voter saw them
    PRIMARY KEY (voter, question)
) STRICT;
"""


class SecondVote(Exception):
    """The voter has answered this question before."""


@dataclass(frozen=True)
class Voter:
    """One who has joined."""

    number: int
    age: str
    expertise: str


@dataclass(frozen=True)
class Cast:
    """One vote as it is stored."""

    voter: int
    question: str
    chosen: str
    shown: tuple[str, ...]


class Store:
    """The votes of one study. Safe to use from several threads. Raises UserError for a file that is another study's.

    flush: whether a vote is on the disk when it counts; simulated ones need not be.
    """

    def __init__(self, path: Path | str, key: str, flush: bool = True) -> None:
        self.path, self._synchronous = Path(path), "FULL" if flush else "OFF"
        self._lock, self._reading = threading.Lock(), threading.Lock()
        try:
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            self._open(key)
            # Reads go through a connection of their own: they need not wait until somebody's vote is on the disk.
            self._reader = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: cannot be used ({reason(error)}); free space, or restore it"
            ) from error

    def _open(self, key: str) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute(
            f"PRAGMA synchronous = {self._synchronous}"
        )  # FULL: a commit returns when it is on the disk
        self._db.execute("PRAGMA foreign_keys = ON")
        if self._one("PRAGMA user_version") == 0:
            marks = f"INSERT INTO study VALUES ('{_digest(key)}'); PRAGMA user_version = {VERSION};"
            self._db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {marks} COMMIT;")
        if self._one("PRAGMA user_version") != VERSION or self._one("SELECT key FROM study") != _digest(key):
            raise UserError(f"{self.path}: votes of another study; put it where its own vote.json is")

    @staticmethod
    def tokens(count: int) -> list[str]:
        """So many numbers that nobody can guess (192 bits each)."""
        return [secrets.token_urlsafe(24) for _ in range(count)]

    def invite(self, tokens: Sequence[str]) -> None:
        """Let those who hold these tokens join; who is invited already stays so."""
        with self._lock, self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO voters (token) VALUES (?)", [(_digest(token),) for token in tokens]
            )

    def invited(self, token: str) -> bool:
        """Whether the token is a voter's, joined or not."""
        return bool(self._rows("SELECT 1 FROM voters WHERE token = ?", _digest(token)))

    def join(self, token: str | None, age: str = "", expertise: str = "") -> str:
        """Give the invited voter, or with None a new one, the next number; the token comes back. Twice is once."""
        if token is None:
            (token,) = self.tokens(1)
            self.invite([token])
        with self._lock, self._transaction():
            self._db.execute(
                "UPDATE voters SET number = (SELECT count(number) FROM voters), age = ?, expertise = ? "
                "WHERE token = ? AND number IS NULL",
                (age, expertise, _digest(token)),
            )
        return token

    def voter(self, token: str) -> int | None:
        """The number of one who has joined, by token."""
        rows = self._rows("SELECT number FROM voters WHERE token = ?", _digest(token))
        return rows[0][0] if rows else None

    def answered(self, voter: int) -> set[str]:
        """The questions that a voter has answered."""
        return {row[0] for row in self._rows("SELECT question FROM votes WHERE voter = ?", voter)}

    def add(self, voter: int, question: str, chosen: str, shown: Sequence[str]) -> None:
        """Store one vote; when this returns, it is on the disk. Raises SecondVote, sqlite3.Error."""
        try:
            with self._lock, self._transaction():
                self._db.execute(
                    "INSERT INTO votes VALUES (?, ?, ?, ?)",
                    (voter, question, chosen, json.dumps(list(shown), ensure_ascii=False)),
                )
        except sqlite3.IntegrityError as error:
            raise SecondVote(f"voter {voter}, question {question}") from error

    def voters(self) -> list[Voter]:
        """Everybody who has joined."""
        return [
            Voter(*row)
            for row in self._rows(
                "SELECT number, age, expertise FROM voters WHERE number IS NOT NULL ORDER BY number"
            )
        ]

    def votes(self) -> list[Cast]:
        """Every vote, in the order in which they came."""
        rows = self._rows("SELECT voter, question, chosen, shown FROM votes ORDER BY rowid")
        return [
            Cast(voter, question, chosen, tuple(json.loads(shown))) for voter, question, chosen, shown in rows
        ]

    def close(self) -> None:
        with self._lock, self._reading:
            self._reader.close()
            self._db.close()

    def _transaction(self) -> "_Transaction":
        return _Transaction(self._db)

    def _rows(self, query: str, *values: object) -> list[tuple]:
        with self._reading:
            return self._reader.execute(query, values).fetchall()

    def _one(self, query: str) -> object:
        with self._lock:
            return self._db.execute(query).fetchone()[0]


class _Transaction:
    """All that happens inside, or none of it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type | None, *rest: object) -> None:
        try:
            if kind is None:
                self.db.execute("COMMIT")
        finally:
            if self.db.in_transaction:  # something failed, the commit itself perhaps
                self.db.execute("ROLLBACK")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
