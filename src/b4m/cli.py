"""The command line: b4m train-content | train-style | second-stage | generate | export | info."""

import argparse
import dataclasses
import os
import sys
import typing
from collections.abc import Sequence
from typing import Any, NoReturn

from .config import PRESETS, STAGES, ExportConfig, GenerateConfig, TrainConfig, resolve
from .errors import UserError
from .fields import to_yaml


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: what it is for, an example, and the settings behind its flags."""

    help: str
    example: str
    settings: type | None = None
    stage: str | None = None


COMMANDS = {
    "train-content": Command(
        "Learn what a thing looks like from 3 to 5 pictures of it; writes content.safetensors.",
        "b4m train-content --content-dir my_bear/ --content-class teddybear --partner-dirs styles/*.png "
        "--output-dir outputs/bear",
        TrainConfig,
        "content",
    ),
    "train-style": Command(
        "Learn how a style looks from 1 to 3 pictures in it; writes style.safetensors.",
        "b4m train-style --style-dir chalk/ --style-class chalk --partner-dirs things/*.png "
        "--output-dir outputs/chalk",
        TrainConfig,
        "style",
    ),
    "second-stage": Command(
        "Bring a content and a style together; writes pytorch_lora_weights.safetensors, a LoRA for any tool.",
        "b4m second-stage --content-file outputs/bear/content.safetensors "
        "--style-file outputs/chalk/style.safetensors --content-dir my_bear/ --style-dir chalk/ "
        "--output-dir outputs/fused",
        TrainConfig,
        "second",
    ),
    "generate": Command(
        "Draw pictures, with a dial for the content and a dial for the style.",
        "b4m generate --lora-file outputs/fused/pytorch_lora_weights.safetensors "
        "--prompts 'a photo of snq teddybear in w@z chalk style' --seeds 1 2 3 --style-strength 0.8 --grid",
        GenerateConfig,
    ),
    "export": Command(
        "Write content and style files, or a fused file, as one ordinary LoRA file.",
        "b4m export --content-file outputs/bear/content.safetensors "
        "--style-file outputs/chalk/style.safetensors "
        "--output bear_chalk.safetensors --dtype fp16",
        ExportConfig,
    ),
    "info": Command("Say what a file holds.", "b4m info outputs/bear/content.safetensors"),
}


class Parser(argparse.ArgumentParser):
    """Errors as one line, like every other error of ours."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ('{self.prog} --help' shows what there is)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0, 2 for bad input (one line on stderr), 128 + n after signal n."""
    try:
        _run(build_parser().parse_args(arguments))
    except UserError as error:
        print(f"b4m: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the training loop, which saves its state first
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("b4m", description="Your content in your style: customize SDXL with two small files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.help,
            description=command.help,
            epilog=f"example: {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        if command.settings is None:
            sub.add_argument(
                "file", metavar="FILE", help="a content, style or LoRA file, or a folder of training states"
            )
            continue
        sub.add_argument(
            "--config", metavar="FILE", default=None, help="YAML file with settings; flags win over it"
        )
        sub.add_argument(
            "--preset",
            choices=sorted(PRESETS),
            default=None,
            help="settings to start from (default: sdxl if a base model is named, else embedded)",
        )
        sub.add_argument(
            "--dry-run",
            action="store_true",
            default=False,
            help="check settings, pictures and files, print the settings as YAML, and do nothing else",
        )
        _add_flags(sub, command)
    return parser


def _add_flags(parser: argparse.ArgumentParser, command: Command) -> None:
    """One flag per field of the settings dataclass; the dataclass converts and checks what is given."""
    hints = typing.get_type_hints(command.settings)
    for field in dataclasses.fields(command.settings):
        shown = command.stage is None or command.stage in (field.metadata["stages"] or STAGES)
        if field.name == "stage" or not shown:
            continue
        flag = "--" + field.name.replace("_", "-")
        many = typing.get_origin(hints[field.name]) is tuple
        text = field.metadata["doc"].replace("%", "%%")
        if field.metadata["choices"]:
            text += f" ({' | '.join(field.metadata['choices'])})"
        elif field.default not in (None, (), dataclasses.MISSING, False):
            text += f" (default {_plain(field.default)}, unless the preset says otherwise)"
        if hints[field.name] is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        else:
            metavar = "TEXT" if hints[field.name] in (str, str | None) else "N"
            parser.add_argument(
                flag, nargs="+" if many else None, metavar="..." if many else metavar, help=text
            )


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _run(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    command = COMMANDS[given.pop("command")]
    if command.settings is None:
        return _info(given["file"])
    file, preset, dry = given.pop("config"), given.pop("preset"), given.pop("dry_run")
    if command.stage is not None:
        given["stage"] = command.stage
    config = resolve(command.settings, preset, file, **given)
    if dry:
        return _dry_run(config)
    quiet()
    if isinstance(config, TrainConfig):
        from .train import (
            train,
        )  # here and below: torch and diffusers take seconds, which --help need not wait

        train(config)
    elif isinstance(config, GenerateConfig):
        from .generate import generate

        for path in generate(config):
            print(path)
    else:
        from .export import export

        print(export(config))


def _dry_run(config: Any) -> None:
    if isinstance(config, TrainConfig):
        quiet()
        from .stages import gather

        gather(config)
    print(to_yaml(config), end="")


def _info(file: str) -> None:
    from .checkpoint import describe

    for name, value in describe(file).items():
        print(f"{name}: {value}")


def quiet() -> None:
    """Leave the terminal to our own lines: no notices about optional packages, no bars for loading files."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
