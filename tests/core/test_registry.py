"""Names to implementations: our own, those of other packages, and what is refused of either."""

import subprocess
import sys

import pytest
from conftest import refused
from packages import installed

from b4m.core import registry
from b4m.core.errors import Busy, UserError
from b4m.core.registry import Registry

GROUP = "b4m.things"
OWN = {"user": "b4m.core.errors:UserError", "busy": "b4m.core.errors:Busy"}
CODE = "class Thing: pass"


@pytest.fixture
def things() -> Registry:
    return Registry("thing", GROUP, OWN)


def test_own_names_are_looked_up_and_come_in_their_order(things):
    assert things.names() == ["user", "busy"]
    assert things.get("busy") is Busy and list(things) == [UserError, Busy]


def test_an_unknown_name_is_refused_with_the_known_ones(things, tmp_path):
    refused(lambda: things.get("usr"), "thing 'usr'", "user, busy")
    with installed(tmp_path, GROUP, CODE, theirs="Thing"):
        refused(lambda: things.get("usr"), "user, busy, theirs")


def test_own_implementations_are_imported_when_they_are_asked_for():
    """Which is why --help need not wait for them."""
    program = (
        "import sys; from b4m.core.registry import Registry\n"
        "things = Registry('thing', 'b4m.things', {'late': 'wave:open'})\n"
        "assert things.names() == ['late'] and 'wave' not in sys.modules\n"
        "assert things.get('late') is sys.modules['wave'].open"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_another_package_brings_one_for_as_long_as_it_is_installed(things, tmp_path):
    assert things.names() == ["user", "busy"]
    with installed(tmp_path, GROUP, CODE, theirs="Thing", another="Thing"):
        assert things.names() == ["user", "busy", "another", "theirs"]
        assert things.get("theirs").__name__ == "Thing" and list(things)[3] is things.get("theirs")
        assert Registry("other", "b4m.others", OWN).names() == ["user", "busy"], "a group of its own"
    assert things.names() == ["user", "busy"]
    refused(lambda: things.get("theirs"), "thing 'theirs'")


def test_what_is_installed_is_looked_up_once(things, tmp_path, monkeypatch):
    looked = []
    with installed(tmp_path, GROUP, CODE, theirs="Thing"):
        look = registry.entry_points
        monkeypatch.setattr(registry, "entry_points", lambda **given: looked.append(given) or look(**given))
        for _ in range(3):
            things.get("theirs")
    assert looked == [{"group": GROUP}]


def test_a_name_that_is_taken_is_refused_and_never_replaced(things, tmp_path):
    with installed(tmp_path, GROUP, CODE, user="Thing"):
        refused(things.names, "user of brought:Thing", "taken", "uninstall")
        assert things.get("user") is UserError


def test_two_packages_that_bring_one_name_are_refused(things, tmp_path):
    with installed(tmp_path, GROUP, CODE, theirs="Thing"):
        second = tmp_path / "second-1.0.dist-info"
        second.mkdir()
        (second / "METADATA").write_text("Metadata-Version: 2.1\nName: second\nVersion: 1.0\n")
        (second / "entry_points.txt").write_text(f"[{GROUP}]\ntheirs = second:Thing\n")
        refused(lambda: things.get("theirs"), "theirs of ", "taken")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("def (", "invalid syntax"),
        ("raise RuntimeError('a\\nb')", "(a b)"),
        ("", "Thing"),
    ],
    ids=["import", "syntax", "raises", "attribute"],
)
def test_a_package_that_is_broken_is_one_line_and_harms_no_other(things, tmp_path, code, word):
    with installed(tmp_path, GROUP, code, theirs="Thing"):
        refused(lambda: things.get("theirs"), "thing 'theirs'", "cannot be imported", word)
        assert things.get("user") is UserError and things.names()[2:] == ["theirs"]
