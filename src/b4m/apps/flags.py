"""Flags made from the settings of a command, and what was typed read by them."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from ..config.fields import flag
from ..config.foreign import answer
from ..config.presets import DEFAULT, PRESETS
from ..config.resolve import presets_of
from ..config.training import JobConfig
from ..core.errors import UserError
from .commands import COMMANDS, Command
from .quiet import quiet


class Parser(argparse.ArgumentParser):
    """Errors as one line, like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ('{self.prog} --help' shows what there is)")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for what is no command or no flag of one."""
    method = _named_method(arguments)
    command = next((word for word in arguments if not word.startswith("-")), "")
    settings = job_of(method) if method else COMMANDS[command].settings if command in COMMANDS else None
    if settings is not None:
        arguments = _joined([_spelled(word, settings) for word in arguments], settings)
    return build_parser(method).parse_args(arguments)


def _named_method(arguments: Sequence[str]) -> str | None:
    """METHOD or METHOD:JOB of `b4m train`, whose settings are the method's own."""
    words = [word for word in arguments if not word.startswith("-")][:2]
    return words[1] if words[:1] == ["train"] and len(words) == 2 else None


def _spelled(word: str, settings: type) -> str:
    """A flag with our dashes for underscores; another tool's is answered with ours. Raises UserError."""
    name, equals, value = word.partition("=")
    if not re.fullmatch(r"--[A-Za-z][\w-]*", name):
        return word
    key = name.removeprefix("--").replace("-", "_")
    known = {field.name for field in dataclasses.fields(settings)} | {"config", "preset", "dry_run", "help"}
    if key in known or key.removeprefix("no_") in known:
        return flag(key) + equals + value
    if said := answer(key.lower(), known):
        raise UserError(f"{name}: {said}")
    return word


def _joined(words: Sequence[str], settings: type) -> list[str]:
    """A value that begins with a dash, behind its flag: argparse would take "-blurry" for a flag."""
    kinds = {flag(name): hint for name, hint in typing.get_type_hints(settings).items()}
    joined: list[str] = []
    for word in words:
        hint = kinds.get(joined[-1]) if joined else None
        single = hint not in (None, bool) and typing.get_origin(hint) is not tuple
        if single and re.match("-[^-]", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def build_parser(method: str | None = None) -> argparse.ArgumentParser:
    """method: METHOD or METHOD:JOB, whose flags `b4m train` takes. Raises UserError for an unknown one."""
    parser = Parser("b4m", description="Your content in your style: customize SDXL with two small files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for name, command in COMMANDS.items():
        sub = _add_command(commands, name, command)
        settings = command.settings
        if name == "info":
            sub.add_argument(
                "file", metavar="FILE", help="a content, style or LoRA file, or a folder of training states"
            )
        if name == "train":
            sub.add_argument("method", metavar="METHOD", help="a registered method, or METHOD:JOB")
            settings = job_of(method) if method else None
        if settings is not None:
            _add_flags(sub, settings, command.arguments)
        if command.actions:
            actions = sub.add_subparsers(dest="action", required=True, metavar="action", parser_class=Parser)
            for word, action in command.actions.items():
                _add_flags(_add_command(actions, word, action), action.settings, action.arguments)
    return parser


def _add_command(commands: Any, name: str, command: Command) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=command.help,
        description=command.help,
        epilog=f"example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )


def job_of(method: str) -> type[JobConfig]:
    """The settings of METHOD or METHOD:JOB. Imported here: the file of a method may need torch."""
    quiet()
    from ..methods.registry import job_named

    name, _, job = method.partition(":")
    return job_named(name, job or None)


def _add_flags(parser: argparse.ArgumentParser, settings: Any, arguments: Sequence[str]) -> None:
    """One flag per field of the settings dataclass; the dataclass converts and checks what is given."""
    parser.add_argument(
        "--config", metavar="FILE", default=None, help="YAML file with settings; flags win over it"
    )
    if presets_of(settings):
        parser.add_argument(
            "--preset",
            choices=sorted(PRESETS),
            help=f"settings to start from (default {DEFAULT}; with another base model it must be given)",
        )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        default=False,
        help="check settings, images and files, print the settings as YAML, and do nothing else",
    )
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if field.name in arguments:
            needed = field.default is dataclasses.MISSING
            name, doc = field.name.upper(), field.metadata["doc"]
            parser.add_argument(field.name, metavar=name, nargs=None if needed else "?", help=doc)
            if needed:
                continue
        many = typing.get_origin(hints[field.name]) is tuple
        text = field.metadata["doc"].replace("%", "%%")
        if field.metadata["choices"]:
            text += f" ({' | '.join(field.metadata['choices'])})"
        elif field.default not in (None, (), dataclasses.MISSING, False):
            text += f" (default {_plain(field.default)}, unless the preset says otherwise)"
        if hints[field.name] is bool:
            parser.add_argument(flag(field.name), action=argparse.BooleanOptionalAction, help=text)
        else:
            metavar = "TEXT" if str in _kinds(hints[field.name]) else "N"
            parser.add_argument(
                flag(field.name), nargs="+" if many else None, metavar="..." if many else metavar, help=text
            )


def _kinds(hint: Any) -> set[Any]:
    """A field's type, or the types that it may have; a path is text."""
    kinds = typing.get_args(hint) or (hint,)
    return {getattr(kind, "__supertype__", kind) for kind in kinds}


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
