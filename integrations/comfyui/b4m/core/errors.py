"""The one error that a user sees: a single line saying what is wrong, where, and what to do; and the one note."""

import sys
from functools import cache


class UserError(Exception):
    """Bad input: a file, an option or a folder that cannot be used as given.

    The message is one line: what was found, where, what was expected, what to do. The command line prints it
    as ``b4m: error: <line>`` and exits with status 2; nobody should ever see a traceback of it. Names in it may come
    from anywhere: what a terminal would not show as it stands is escaped here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Busy(UserError):
    """Another process is at work in the same folder."""


def printable(text: object) -> str:
    """The text with every unprintable character escaped: a file name may hold a newline, a line may not."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


@cache
def note(message: str) -> None:
    """One line on stderr about something that goes on otherwise than asked; each is said once."""
    print(f"b4m: note: {printable(message)}", file=sys.stderr)
