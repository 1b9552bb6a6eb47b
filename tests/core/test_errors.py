"""A user error is one printable line, whatever the names in it hold."""

import pytest

from b4m.core.errors import Busy, UserError, printable


@pytest.mark.parametrize("cls", [UserError, Busy])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("größer 猫 'x'.png", "größer 猫 'x'.png"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),  # which would turn the line around
        ("\udcff", "\\udcff"),  # a byte of a file name that is not UTF-8
        ("\0", "\\x00"),
        ("\u2028", "\\u2028"),
    ],
)
def test_what_a_terminal_would_not_show_is_escaped(cls, name, shown):
    error = cls(f"{name}: not a picture")
    assert str(error) == f"{shown}: not a picture"
    assert str(error).isprintable() and len(str(error).splitlines()) == 1
    assert str(error).encode() and printable(name) == shown
