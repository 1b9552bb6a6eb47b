"""The job behind the settings of a command, and what a dry run says of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..benchmarking.settings import BenchConfig
from ..config.fields import to_yaml
from ..config.sampling import GenerateConfig
from ..config.training import JobConfig
from ..evaluation.settings import BalanceConfig, EvaluateConfig, InspectConfig
from ..files.settings import ExportConfig, SplitConfig
from ..studies.settings import LibraryConfig, StudyConfig
from .push.settings import PushConfig
from .quiet import quiet
from .vote.settings import MakeConfig, ReportConfig, ServeConfig, SimulateConfig


def job(config: Any) -> Callable[[], object]:
    """The job behind `config`, imported and ready: called, it says what it made.

    Imports here: torch takes seconds, which --help need not wait.
    """
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
    if folder is None:
        return "another process writes the results"
    return (folder / "results.md").read_text(encoding="utf-8")


def dry_run(config: Any) -> None:
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
            from .push.push import dry_run as of_push

            return print(of_push(config))
        case EvaluateConfig(pictures=str(folder)):
            from ..evaluation.manifest import read_manifest

            read_manifest(folder)
        case StudyConfig():
            quiet()
            from ..studies.run import dry_run as of_study

            return print(of_study(config))
        case LibraryConfig():
            quiet()
            from ..studies.library import dry_run as of_library

            return print(of_library(config))
        case MakeConfig():
            from .vote.make import plan

            plan(config)
    print(to_yaml(config), end="")
