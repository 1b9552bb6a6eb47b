"""What docs/methods.md says of a pair on SDXL, counted from the layers of SDXL and the settings of the preset."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from b4m.backbones.published import empty_unet
from b4m.config.resolve import resolve
from b4m.config.training import JobConfig, ShowsContent, ShowsStyle, TrainConfig
from b4m.maths.adapter import PROJECTIONS
from b4m.maths.null_text import INNER
from b4m.maths.plp import frozen_sizes
from b4m.methods.b_lora import BLOCKS
from b4m.methods.cc_es import EditConfig
from b4m.methods.class_images import DrawsClasses
from b4m.methods.custom_diffusion import Custom
from b4m.methods.inverting import Inverts
from b4m.methods.keys_and_values import ENDS
from b4m.methods.low_rank import LoraContentConfig
from b4m.methods.registry import METHODS, method
from b4m.methods.ziplora import ZipLoraConfig

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
RANK, RATIO = 64, 0.5
VECTOR = 768 + 1280  # of a word, in both token tables
BACKWARD = 2  # forwards that one costs


@pytest.fixture(scope="module")
def widths() -> dict[str, tuple[int, int]]:
    """(m, n) of every attention projection of SDXL."""
    weights = dict(empty_unet("Stable Diffusion XL").named_parameters())
    ends = tuple(f".{projection}.weight" for projection in PROJECTIONS)
    return {name: tuple(weight.shape) for name, weight in weights.items() if name.endswith(ends)}


def lora(widths: dict[str, tuple[int, int]], start: str = "") -> int:
    """Numbers of a LoRA on the layers of one block, or on all."""
    return sum(RANK * (m + n) for name, (m, n) in widths.items() if name.startswith(start))


def sizes(widths: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Numbers in the files that a pair is drawn from, by method."""
    one = lora(widths)
    factors = 0
    for m, n in widths.values():
        d_out, d_in = frozen_sizes(m, n, RATIO)
        factors += RANK * (m - d_out + n - d_in)
    custom = 2 * VECTOR + sum(
        m * n for name, (m, n) in widths.items() if name[: -len(".weight")].endswith(ENDS)
    )
    aligned, edit = (resolved(method(name).jobs[0]) for name in ("style-aligned", "cc+es"))
    return {
        "words": 0,
        **dict.fromkeys(("b4m", "joint", "joint-then-second", "cc+cs"), one),
        "composed": factors,
        **dict.fromkeys(("lora", "direct-sum", "ziplora", "unziplora", "orthogonal-adaptation"), 2 * one),
        "k-lora": 2 * one + len(widths),
        "b-lora": sum(lora(widths, f"{block}.") for block in BLOCKS.values()),
        "textual-inversion": 2 * VECTOR,
        "prospect": 2 * 10 * VECTOR,
        **dict.fromkeys(("custom-diffusion", "custom-diffusion-merge"), custom),
        "style-aligned": one + (aligned.inversion_steps + 1) * latents(aligned.resolution),
        "cc+es": one + edit.inversion_steps * 77 * 2048 + latents(edit.resolution),
    }


def latents(size: int) -> int:
    """Numbers of an image's latents."""
    return 4 * (size // 8) ** 2


def resolved(job: type[JobConfig], **settings: Any) -> Any:
    """The settings of a job on SDXL, with five partners."""
    asked = {name: "x" for name in job.__dataclass_fields__ if name.endswith(("_dir", "_file"))}
    if "partner_dirs" in job.__dataclass_fields__:
        asked["partner_dirs"] = tuple("abcde")
    return resolve(job, "sdxl", **{**asked, **settings})


class Asked:
    """A pair of a new content and a new style: what a method asks it to train."""

    def __init__(self) -> None:
        self.jobs: dict[type[JobConfig], Any] = {}

    def train(self, job: type[JobConfig], everything: bool = False, **settings: Path) -> Path:
        self.jobs[job] = resolved(job, **{name: str(path) for name, path in settings.items()})
        return Path(job.stage) / job.result


def forwards(config: JobConfig) -> float:
    """Samples that the denoiser passes forward, a backward counted as BACKWARD of them; at most, of an edit."""
    if isinstance(config, DrawsClasses):
        return config.draw_count * config.draw_steps * 2  # guided
    if isinstance(config, Inverts):
        each = 1 + (INNER + 1) + INNER * BACKWARD + 1 if isinstance(config, EditConfig) else 0
        return config.inversion_steps * (1 + each)
    if not isinstance(config, TrainConfig):
        return 0
    kinds = isinstance(config, ShowsContent) + isinstance(config, ShowsStyle)
    if config.stage == "cc+cs":
        kinds = 1  # the content is looked at alone
    beside = 2 if isinstance(config, Custom) else 1  # a class image for each
    samples = config.target_rows * kinds * beside + len(getattr(config, "partner_dirs", ()))
    each = 1 + BACKWARD + isinstance(config, ZipLoraConfig)  # what one LoRA says alone
    return config.steps * config.gradient_accumulation * samples * each


def rows() -> Iterator[tuple[str, float, float]]:
    """Method, MB and LoRA-runs of the table."""
    (table,) = re.findall(r"^\| method \| MB.+\n\|[-| ]+\n((?:\|.+\n)+)", PAGE, re.MULTILINE)
    for line in table.splitlines():
        names, megabytes, runs = line.strip("| ").split(" | ")
        for name in re.findall("`([^`]+)`", names):
            yield name, float(megabytes.replace(",", "")), float(runs)


def test_the_table_says_how_large_files_are_and_how_long_trainings(widths):
    numbers, run = sizes(widths), forwards(resolved(LoraContentConfig))
    found = {name: cells for name, *cells in rows()}
    assert found.keys() == {*METHODS.names()} - {"content", "style"}
    for name, (megabytes, runs) in found.items():
        asked = Asked()
        method(name).files(asked)
        exact = 4 * numbers[name] / 1e6
        assert megabytes == (round(exact) if exact > 1 else pytest.approx(exact, rel=0.01)), name
        assert runs == round(sum(map(forwards, asked.jobs.values())) / run, 1), name


def test_the_numbers_that_are_trained_are_those_of_its_layers(widths):
    up = sum(RANK * m for m, _ in widths.values())
    of_blocks = sum(lora(widths, f"{block}.") for block in BLOCKS.values())
    assert not [number for number in (lora(widths), of_blocks, up) if f"{number:,}" not in PAGE]
    square = lora({name: (m, n) for name, (m, n) in widths.items() if m == n})
    assert f"{4 * square / 1e6:.0f} MB in place of {4 * lora(widths) / 1e6:.0f}" in PAGE
