"""Names to implementations: those of this package, and those that other packages bring as entry points."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from .errors import UserError


class Registry:
    """Objects by name, imported when they are asked for.

    group: of the entry points, "b4m.methods" say; own: name -> "module:attribute" of this package. A package that
    brings a name which is taken is refused: nothing is replaced behind anyone's back.
    """

    def __init__(self, what: str, group: str, own: Mapping[str, str]) -> None:
        self.what, self.group, self.own = what, group, own

    def names(self) -> list[str]:
        """This package's own first."""
        return [*self.own, *sorted(self._found())]

    def get(self, name: str) -> Any:
        """Raises UserError for an unknown name, and for one whose package cannot be imported."""
        if name in self.own:
            module, _, attribute = self.own[name].partition(":")
            return getattr(import_module(module), attribute)
        if name not in self._found():
            raise UserError(f"{self.what} {name!r}: not known; choose one of {', '.join(self.names())}")
        try:
            return self._found()[name].load()
        except Exception as error:  # somebody else's code
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self.what} {name!r}: the package that brings it cannot be imported ({line})"
            ) from error

    def __iter__(self) -> Iterator[Any]:
        return map(self.get, self.names())

    def _found(self) -> Mapping[str, Any]:
        return _entries(self.group, frozenset(self.own))


@cache
def _entries(group: str, taken: frozenset[str]) -> Mapping[str, Any]:
    found = {}
    for entry in entry_points(group=group):
        if entry.name in taken or entry.name in found:
            raise UserError(f"{group}: {entry.name} of {entry.value} is a name that is taken; uninstall it")
        found[entry.name] = entry
    return found
