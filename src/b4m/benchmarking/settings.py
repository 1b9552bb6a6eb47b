"""Settings of `b4m bench`."""

import re
import shlex
import shutil
from dataclasses import dataclass

from ..config.fields import ModelName, OutputPath, check, flag, setting
from ..core.errors import UserError

# In the command line of a peer.
FILLED = tuple("output images prompt base-model steps batch rank lr resolution mixed-precision seed".split())


@dataclass(frozen=True)
class BenchConfig:
    """Settings of one benchmark. Raises UserError for a value that cannot work."""

    size: str = setting(
        "which architecture, with random weights: Stable Diffusion XL, or the embedded base's",
        "sdxl",
        choices=("sdxl", "small"),
    )
    base_model: ModelName | None = setting(
        "a base model to measure instead: a folder or a Hugging Face name", None
    )
    device: str = setting("where to run", "auto", choices=("auto", "cpu", "cuda"))
    output: OutputPath = setting("JSON file for all that was measured", "outputs/bench.json")
    resolution: int | None = setting(
        "side of the images in pixels (default: 512, and 64 for the small size)", None, low=8, high=8192
    )
    partners: int = setting("partners beside the one target; they and it are the rows of a step", 3, low=1)
    rank: int | None = setting("rank of the adapter (default: 64, and 32 for the small size)", None, low=2)
    layers: str = setting("attention layers to adapt", "square", choices=("square", "all"))
    steps: int = setting("measured steps of each contender, taken in turn", 10, low=1)
    warm_up: int = setting("steps of each before the measured ones", 2, low=1)
    mixed_precision: str = setting("precision of the frozen model", "bf16", choices=("no", "bf16", "fp16"))
    gradient_checkpointing: bool = setting("recompute the forward pass: less memory, more time", False)
    rows_per_pass: int | None = setting("rows in one pass (default: all)", None, low=1)
    compile: bool = setting("compile the repeated blocks of our own contenders with torch.compile", False)
    rivals: str = setting(
        "what to measure beside ours: steps of the published flow, an ordinary LoRA and other optimizers; light leaves "
        "out the published flow, which needs a copy of the model in float32; all goes on with whole concepts, each a "
        "process from its start to a file that is scored, on --base-model or the embedded base",
        "steps",
        choices=("all", "steps", "light", "none"),
    )
    concept_steps: int | None = setting(
        "for --rivals all: steps of a whole concept (default: its preset's)", None, low=1
    )
    peer: str | None = setting(
        "for --rivals all: a command line to put beside ours, which writes a LoRA into the folder {output}; {images} "
        "(a folder of images alone), {prompt}, {base-model}, {steps}, {batch}, {rank}, {lr}, {resolution}, "
        "{mixed-precision} and {seed} are filled in",
        None,
    )

    def __post_init__(self) -> None:
        check(self)
        for name in ("concept_steps", "peer"):
            if getattr(self, name) is not None and self.rivals != "all":
                raise UserError(
                    f"{flag(name)} goes with --rivals all: without it no whole concept is trained"
                )
        if self.peer is not None:
            _check_peer(words_of(self.peer))
        for name, large, small in (("resolution", 512, 64), ("rank", 64, 32)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, small if self.size == "small" else large)
        if self.resolution and self.resolution % 32:
            raise UserError(f"--resolution {self.resolution}: must be a multiple of 32 pixels")


def words_of(command: str) -> list[str]:
    """A peer's command line, word by word as a shell reads it. Raises UserError for a quote that is left open."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UserError(f"--peer: {error} in {command!r}; close it") from error


def _check_peer(words: list[str]) -> None:
    """Raises UserError for what would fail, or be left as it stands, when ours have been measured already."""
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            f"--peer {words[0] if words else repr('')}: no such program; give a command line, as in "
            "'python train.py --output_dir {output}'"
        )
    named = set(re.findall(r"\{([A-Za-z_-]+)\}", " ".join(words)))
    if unknown := sorted(named - {*FILLED}):
        known = ", ".join(f"{{{name}}}" for name in FILLED)
        raise UserError(f"--peer: {{{unknown[0]}}} is nothing that is filled in; there are {known}")
    if "output" not in named:
        raise UserError("--peer: says {output} nowhere, the folder that its file is looked for in; add it")
