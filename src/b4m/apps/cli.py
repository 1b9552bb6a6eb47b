"""The command line: `b4m COMMAND`, its errors and its exit status."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..config.resolve import resolve
from ..core.errors import UserError
from ..core.imports import importing
from .commands import COMMANDS
from .doctor import DoctorConfig, doctor
from .flags import job_of, parse
from .quiet import quiet
from .studio.settings import StudioConfig
from .work import dry_run, job


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0, 2 for bad input (one line on stderr), 128 + n after signal n."""
    try:
        with importing():
            work = _work(parse(sys.argv[1:] if arguments is None else arguments))
        work()
    except UserError as error:
        print(f"b4m: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the training loop, which saves its state first
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _work(arguments: argparse.Namespace) -> Callable[[], object]:
    """What the command is to do, imported and ready. Raises UserError for settings that cannot work."""
    given = vars(arguments)
    name = given.pop("command")
    command = COMMANDS[name]
    if command.actions:
        command = command.actions[given.pop("action")]
    if name == "info":
        return lambda: _info(given["file"])
    settings: Any = job_of(given.pop("method")) if name == "train" else command.settings
    file, preset, dry = given.pop("config"), given.pop("preset", None), given.pop("dry_run")
    config = resolve(settings, preset, file, **given)
    if dry:
        return lambda: dry_run(config)
    if settings is StudioConfig:  # without torch: its page is there before that could be imported
        from .studio.serve import studio

        return lambda: studio(config)
    if settings is DoctorConfig:  # nothing big is imported before it: a library may be what is broken
        return lambda: doctor(config, quiet)
    quiet()
    return job(config)


def _info(file: str) -> None:
    from .info import describe

    for name, value in describe(file).items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
