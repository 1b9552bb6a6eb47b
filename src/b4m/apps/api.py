"""The same jobs from Python: what `import b4m` offers to a notebook.

Keywords are the settings of the command line, with underscores; `preset` and `config` (a YAML file) work as there.
A setting that cannot work raises `b4m.UserError`, in one line, before anything is written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from diffusers import DiffusionPipeline
from PIL import Image

from ..config.resolve import resolve
from ..config.sampling import DrawnWith, GenerateConfig
from ..config.stages import ContentConfig, SecondConfig, StyleConfig
from ..config.training import JobConfig
from ..core.errors import UserError
from ..evaluation.evaluate import evaluate as run_evaluate
from ..evaluation.settings import EvaluateConfig
from ..files.export import export as run_export
from ..files.settings import ExportConfig
from ..methods.registry import job_named
from ..sampling import generate as sampling
from ..sampling.sample import attach_for, open_for, sample_with
from ..training.loop import train as run_train
from .best import choice
from .push.push import push as run_push
from .push.settings import PushConfig

File = str | Path
FILES = ("content_file", "style_file", "lora_file", "more_files")
AT_LOADING = ("base_model", "vae", "mixed_precision", "base_lora", *FILES)


def train_content(*, preset: str | None = None, config: File | None = None, **settings: Any) -> Path:
    """Learn what a thing looks like. -> the content file.

    The settings of `b4m train-content`; needed: content_dir, partner_dirs. Run again, it goes on where it stopped.
    """
    return _train(ContentConfig, preset, config, settings)


def train_style(*, preset: str | None = None, config: File | None = None, **settings: Any) -> Path:
    """Learn how a style looks. -> the style file.

    The settings of `b4m train-style`; needed: style_dir, partner_dirs.
    """
    return _train(StyleConfig, preset, config, settings)


def second_stage(*, preset: str | None = None, config: File | None = None, **settings: Any) -> Path:
    """Bring a content and a style together. -> a LoRA file for any tool.

    The settings of `b4m second-stage`; needed: content_file, style_file, content_dir, style_dir.
    """
    return _train(SecondConfig, preset, config, settings)


def train(method: str, /, *, preset: str | None = None, config: File | None = None, **settings: Any) -> Path:
    """Train any registered method, by METHOD or METHOD:JOB as in `b4m train`. -> its file."""
    name, _, job = method.partition(":")
    return _train(job_named(name, job or None), preset, config, settings)


def generate(*, preset: str | None = None, config: File | None = None, **settings: Any) -> list[Image.Image]:
    """Every prompt with every seed, a prompt's images side by side. Loads the base model each time: see `load`.

    The settings of `b4m generate`; needed: prompts. With output_dir the images are written there too.
    """
    made = resolve(GenerateConfig, preset, config, **settings)
    choose = choice(made)
    drawn = sampling.draw(made)
    drawn = choose(drawn) if choose else drawn
    if "output_dir" in settings:
        sampling.write(made, drawn)
    return [each.image for each in drawn]


def load(*, preset: str | None = None, config: File | None = None, **settings: Any) -> "Model":
    """A base model with trained files on it, to draw with again and again.

    The settings of `b4m generate` but prompts, seeds and output_dir; none of them is needed.
    """
    return Model(preset, config, settings)


def export(*, preset: str | None = None, config: File | None = None, **settings: Any) -> Path:
    """Write trained files as one LoRA file, or merged into the UNet. -> that file or folder.

    The settings of `b4m export`; needed: output, and content_file and style_file, or lora_file.
    """
    return run_export(resolve(ExportConfig, preset, config, **settings))


def evaluate(*, preset: str | None = None, config: File | None = None, **settings: Any) -> dict[str, Any]:
    """Score images, drawn before or now. -> what results.json holds. The settings of `b4m evaluate`."""
    return run_evaluate(resolve(EvaluateConfig, preset, config, **settings))


def push(*, config: File | None = None, **settings: Any) -> str:
    """Put a trained file on the Hugging Face hub with a model card; private unless `public=True`. -> its address.

    The settings of `b4m push`; needed: file, repo, license.
    """
    return run_push(resolve(PushConfig, None, config, **settings))


class Model:
    """A base model with trained files on it. `load` makes one."""

    def __init__(self, preset: str | None, config: File | None, settings: dict[str, Any]) -> None:
        self._preset, self._config, self._settings = preset, config, settings
        self._backbone = open_for(self._resolve({}))
        self._attach()

    @property
    def pipe(self) -> DiffusionPipeline:
        """The stock Diffusers pipeline behind it."""
        return self._backbone.pipe

    def attach(
        self,
        content_file: File | None = None,
        style_file: File | None = None,
        lora_file: File | None = None,
        more_files: Sequence[File] = (),
    ) -> Self:
        """Put other files on, in place of those before; none: the base model alone."""
        files = dict(zip(FILES, (content_file, style_file, lora_file, tuple(more_files)), strict=True))
        kept = {
            name: value for name, value in self._settings.items() if name not in (*FILES, "more_strengths")
        }
        self._settings = {**kept, **{name: file for name, file in files.items() if file}}
        self._attach()
        return self

    def draw(
        self, prompts: str | Sequence[str], seeds: int | Sequence[int] = 77, **settings: Any
    ) -> list[Image.Image]:
        """Every prompt with every seed, a prompt's images side by side.

        settings: of this call, over those of loading: content_strength, style_strength, steps, guidance, size, ...
        """
        if fixed := sorted(settings.keys() & set(AT_LOADING)):
            raise UserError(f"{fixed[0]} cannot change from one drawing to the next; load the model with it")
        config = self._resolve(settings)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = [seeds] if isinstance(seeds, int) else list(seeds)
        asked = [(prompt, seed) for prompt in prompts for seed in seeds]
        return sample_with(
            self._backbone, config, [prompt for prompt, _ in asked], [seed for _, seed in asked]
        )

    def _resolve(self, settings: dict[str, Any]) -> DrawnWith:
        return resolve(DrawnWith, self._preset, self._config, **{**self._settings, **settings})

    def _attach(self) -> None:
        attach_for(self._backbone, self._resolve({}))


def _train(job: type[JobConfig], preset: str | None, config: File | None, settings: dict[str, Any]) -> Path:
    return run_train(resolve(job, preset, config, **settings)).path
