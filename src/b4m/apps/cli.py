"""The command line: `b4m COMMAND`, its errors and its exit status."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..config.resolve import resolve
from ..core.errors import UserError
from .commands import COMMANDS
from .doctor import DoctorConfig, doctor
from .flags import job_of, parse
from .quiet import quiet
from .studio.settings import StudioConfig
from .work import do, dry_run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0, 2 for bad input (one line on stderr), 128 + n after signal n."""
    try:
        _run(parse(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"b4m: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the training loop, which saves its state first
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _run(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    name = given.pop("command")
    command = COMMANDS[name]
    if command.actions:
        command = command.actions[given.pop("action")]
    if name == "info":
        return _info(given["file"])
    settings: Any = job_of(given.pop("method")) if name == "train" else command.settings
    file, preset, dry = given.pop("config"), given.pop("preset", None), given.pop("dry_run")
    config = resolve(settings, preset, file, **given)
    if dry:
        return dry_run(config)
    if settings is StudioConfig:  # without torch: its page is there before that could be imported
        from .studio.serve import studio

        return studio(config)
    if settings is DoctorConfig:  # nothing big is imported before it: a library may be what is broken
        return doctor(config, quiet)
    quiet()
    do(config)


def _info(file: str) -> None:
    from .info import describe

    for name, value in describe(file).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
