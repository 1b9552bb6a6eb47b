"""The command line: one subcommand per job, its flags made from the settings of the job."""

import argparse
import dataclasses
import logging
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..benchmarking.settings import BenchConfig
from ..config.fields import flag, to_yaml
from ..config.foreign import answer
from ..config.presets import DEFAULT, PRESETS
from ..config.resolve import presets_of, resolve
from ..config.sampling import GenerateConfig
from ..config.training import ContentConfig, JobConfig, JointConfig, SecondConfig, StyleConfig
from ..core.errors import UserError
from ..core.imports import importing
from ..evaluation.settings import BalanceConfig, EvaluateConfig, InspectConfig
from ..files.settings import ExportConfig, SplitConfig
from ..studies.settings import LibraryConfig, StudyConfig
from .doctor import DoctorConfig, doctor
from .push.settings import PushConfig
from .studio.settings import StudioConfig
from .vote.settings import MakeConfig, ReportConfig, ServeConfig, SimulateConfig


@dataclasses.dataclass(frozen=True)
class Command:
    """One subcommand: what it is for, an example, and the settings behind its flags, or those of its actions."""

    help: str
    example: str
    settings: type | None = None
    arguments: tuple[str, ...] = ()  # the fields that are given without a flag
    actions: Mapping[str, "Command"] = dataclasses.field(default_factory=dict)  # words that may follow


VOTE = {
    "make": Command(
        "Make a study from the results of a b4m study, or from folders of images.",
        "b4m vote make outputs/studies/results/table1-ablations --output-dir outputs/vote",
        MakeConfig,
        arguments=("source",),
    ),
    "serve": Command(
        "Let people vote in their browsers, on this machine or, by links or a password, from others.",
        "b4m vote serve outputs/vote --host 0.0.0.0 --links 60",
        ServeConfig,
        arguments=("study",),
    ),
    "report": Command(
        "What the votes say: bars, shares and strengths with intervals, agreement, power, as tables and plot.",
        "b4m vote report outputs/vote",
        ReportConfig,
        arguments=("study",),
    ),
    "simulate": Command(
        "A report of simulated voters with known preferences, kept apart from real votes: is the study large enough?",
        "b4m vote simulate outputs/vote --voters 60 --strengths b4m=3 joint=1",
        SimulateConfig,
        arguments=("study",),
    ),
}

COMMANDS = {
    "train-content": Command(
        "Learn what a thing looks like from 3 to 5 pictures of it; writes content.safetensors.",
        "b4m train-content --content-dir my_bear/ --content-class teddybear --partner-dirs styles/*.png "
        "--output-dir outputs/bear",
        ContentConfig,
    ),
    "train-style": Command(
        "Learn how a style looks from 1 to 3 pictures in it; writes style.safetensors.",
        "b4m train-style --style-dir chalk/ --style-class chalk --partner-dirs things/*.png "
        "--output-dir outputs/chalk",
        StyleConfig,
    ),
    "second-stage": Command(
        "Bring a content and a style together; writes pytorch_lora_weights.safetensors, a LoRA for any tool.",
        "b4m second-stage --content-file outputs/bear/content.safetensors "
        "--style-file outputs/chalk/style.safetensors --content-dir my_bear/ --style-dir chalk/ "
        "--output-dir outputs/fused",
        SecondConfig,
    ),
    "train-joint": Command(
        "Learn one content and one style in one run: what the paper compares with (JTtrain at --ratio 0 "
        "--no-routing).",
        "b4m train-joint --content-dir my_bear/ --style-dir chalk/ --ratio 0 --no-routing --output-dir outputs/joint",
        JointConfig,
    ),
    "train": Command(
        "Train another registered method: b4m train METHOD, or METHOD:JOB; its flags come after its name.",
        "b4m train joint --content-dir my_bear/ --style-dir chalk/ --output-dir outputs/joint",
        arguments=("method",),
    ),
    "generate": Command(
        "Draw pictures, with a dial for the content and a dial for the style.",
        "b4m generate --lora-file outputs/fused/pytorch_lora_weights.safetensors "
        "--prompts 'a photo of snq teddybear in w@z chalk style' --seeds 1 2 3 --style-strength 0.8 --grid",
        GenerateConfig,
    ),
    "export": Command(
        "Write content and style files, or a LoRA file, as one LoRA file for any tool, or merged into the UNet.",
        "b4m export --content-file outputs/bear/content.safetensors "
        "--style-file outputs/chalk/style.safetensors "
        "--output bear_chalk.safetensors --dialect kohya-original",
        ExportConfig,
    ),
    "split": Command(
        "Take a fused LoRA file apart again; writes content.safetensors and style.safetensors.",
        "b4m split --lora-file outputs/fused/pytorch_lora_weights.safetensors --output-dir outputs/apart",
        SplitConfig,
    ),
    "push": Command(
        "Put a trained file on the Hugging Face hub, private unless told otherwise, with a model card of what it says.",
        "b4m push outputs/fused/pytorch_lora_weights.safetensors --repo me/bear-chalk --license cc-by-4.0 "
        "--images outputs/pictures --dry-run",
        PushConfig,
        arguments=("file",),
    ),
    "evaluate": Command(
        "Score pictures: content, style and prompt alignment with intervals, as tables, plot and contact sheet.",
        "b4m evaluate --lora-file outputs/fused/pytorch_lora_weights.safetensors --content-dir my_bear/ "
        "--style-dir chalk/ --prompts 'a snq bear in w@z chalk style' --preset sdxl",
        EvaluateConfig,
    ),
    "study": Command(
        "Run a table of the paper, or one of your own: trainings, pictures, scores; on all devices.",
        "b4m study table1-ablations --dry-run",
        StudyConfig,
        arguments=("study",),
    ),
    "library": Command(
        "Learn every content and style of a library once, draw all pairs, score them; a gallery and an index.",
        "b4m library examples/configs/library/world.yaml --dry-run",
        LibraryConfig,
        arguments=("build",),
    ),
    "inspect": Command(
        "Look inside a content, a style or a LoRA: size and rank of each block of each layer, as a picture; with "
        "--interference at what a content and a style do to each other's predictions.",
        "b4m inspect --interference outputs/bear/content.safetensors outputs/chalk/style.safetensors",
        InspectConfig,
        arguments=("file", "style_file"),
    ),
    "balance": Command(
        "Find the two strengths at which a content and a style move their base model's predictions equally far.",
        "b4m balance outputs/bear/content.safetensors outputs/chalk/style.safetensors --output bear_chalk.yaml",
        BalanceConfig,
        arguments=("content_file", "style_file"),
    ),
    "vote": Command(
        "Ask people: the paper's user studies in a browser, and what they said.",
        "b4m vote make outputs/studies/results/table1-ablations",
        actions=VOTE,
    ),
    "bench": Command(
        "Measure a step: seconds, arithmetic, memory, ours beside the published flow, a LoRA, other optimizers.",
        "b4m bench --device cpu --size small",
        BenchConfig,
    ),
    "studio": Command(
        "Open the page: teach, mix with two dials, compare and export, without typing commands.",
        "b4m studio --project my_project/",
        StudioConfig,
    ),
    "doctor": Command(
        "Check this machine: versions, device, memory, disk, base model; says what would fail before it does.",
        "b4m doctor --base-model stabilityai/stable-diffusion-xl-base-1.0 --mixed-precision bf16",
        DoctorConfig,
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
        _run(parse(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"b4m: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the training loop, which saves its state first
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError for what is no command or no flag of one."""
    method = _named_method(arguments)
    command = next((word for word in arguments if not word.startswith("-")), "")
    settings = _job(method) if method else COMMANDS[command].settings if command in COMMANDS else None
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
            settings = _job(method) if method else None
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


def _job(method: str) -> type[JobConfig]:
    """The settings of METHOD or METHOD:JOB. Imported here: the file of a method may need torch."""
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


def _run(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    name = given.pop("command")
    command = COMMANDS[name]
    if command.actions:
        command = command.actions[given.pop("action")]
    if name == "info":
        return _info(given["file"])
    settings: Any = _job(given.pop("method")) if name == "train" else command.settings
    file, preset, dry = given.pop("config"), given.pop("preset", None), given.pop("dry_run")
    config = resolve(settings, preset, file, **given)
    if dry:
        return _dry_run(config)
    if settings is StudioConfig:  # without torch: its page is there before that could be imported
        from .studio.serve import studio

        return studio(config)
    if settings is DoctorConfig:  # nothing big is imported before it: a library may be what is broken
        return doctor(config, quiet)
    with importing():
        quiet()
        job = _job_of(config)
    job()


def _job_of(config: Any) -> Callable[[], object]:
    """The job behind `config`, ready to run and to say what it made. Imports here: torch takes seconds, which --help
    need not wait."""
    match config:
        case JobConfig():
            from ..training.loop import train

            return lambda: train(config)
        case GenerateConfig():
            from ..sampling.generate import generate
            from .best import choice

            return lambda: print(*generate(config, choice(config)), sep="\n")
        case ExportConfig():
            from ..files.export import export

            return lambda: print(export(config))
        case SplitConfig():
            from ..files.export import split

            return lambda: print(*split(config), sep="\n")
        case PushConfig():
            from .push.push import push

            return lambda: print(push(config))
        case EvaluateConfig():
            from ..evaluation.evaluate import evaluate
            from ..evaluation.report import tables

            return lambda: print(
                tables(evaluate(config)["summary"]), f"more in {config.output_dir}", sep="\n"
            )
        case StudyConfig(write_slurm=str(folder)):
            from ..studies.run import slurm

            return lambda: print(f"sbatch {slurm(config, folder)}")
        case StudyConfig():
            from ..studies.run import study

            return lambda: print(_results(study(config)))
        case LibraryConfig(write_slurm=str(folder)):
            from ..studies.library import slurm

            return lambda: print(f"sbatch {slurm(config, folder)}")
        case LibraryConfig():
            from ..studies.library import library

            return lambda: print(library(config) or "another process writes the gallery")
        case BenchConfig():
            from ..benchmarking.bench import bench
            from ..benchmarking.report import shown

            return lambda: print(shown(bench(config)), f"more in {config.output}", sep="\n")
        case BalanceConfig():
            from ..evaluation.balance import balance, balance_table

            return lambda: print(balance_table(balance(config)))
        case InspectConfig(interference=True):
            from ..evaluation.interference import interference, interference_table

            return lambda: print(
                interference_table(interference(config)), f"more in {config.output}", sep="\n"
            )
        case InspectConfig():
            from ..evaluation.inspection import inspect
            from ..evaluation.inspection_report import table

            return lambda: print(table(inspect(config)), f"more in {config.output}", sep="\n")
        case MakeConfig():
            from .vote.make import make

            return lambda: print(f"{make(config)}: now b4m vote serve {config.output_dir}")
        case ServeConfig():
            from .vote.serve import serve

            return lambda: serve(config)
        case ReportConfig():
            from .vote.report import report

            return lambda: print(f"{report(config)}/report.md")
        case SimulateConfig():
            from .vote.simulate import simulate

            return lambda: print(f"{simulate(config)}/report.md, of simulated voters")
        case _:
            raise TypeError(f"no job for {type(config).__name__}")


def _results(folder: Path | None) -> str:
    """What a study says at its end."""
    return (
        (folder / "results.md").read_text(encoding="utf-8")
        if folder
        else "another process writes the results"
    )


def _dry_run(config: Any) -> None:
    """Check what can be checked without the base model, and say what would be done."""
    match config:
        case JobConfig():
            quiet()
            from ..backbones.registry import cut_off_at_hand
            from ..data.summary import summarise
            from ..methods.registry import method_of

            inputs = method_of(type(config)).task(config).inputs
            summary = summarise(inputs, cut_off_at_hand(config.base_model, inputs.prompts))
            print(*(f"# {line}" for line in summary.lines), sep="\n")
        case PushConfig():
            quiet()
            from .push.push import dry_run

            return print(dry_run(config))
        case EvaluateConfig(pictures=str(folder)):
            from ..evaluation.manifest import read_manifest

            read_manifest(folder)
        case StudyConfig():
            quiet()
            from ..studies.run import dry_run

            return print(dry_run(config))
        case LibraryConfig():
            quiet()
            from ..studies.library import dry_run

            return print(dry_run(config))
        case MakeConfig():
            from .vote.make import plan

            plan(config)
    print(to_yaml(config), end="")


def _info(file: str) -> None:
    from .info import describe

    for name, value in describe(file).items():
        print(f"{name}: {value}")


def quiet() -> None:
    """Leave the terminal to our own lines: no notices about optional packages, no bars for loading files."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    for name in ("torchao", "torch.utils._pytree"):  # kernels of torchao's for GPUs that are not there
        logging.getLogger(name).setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
