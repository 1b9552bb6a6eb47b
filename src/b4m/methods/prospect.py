"""ProSpect (Zhang et al. 2023, arXiv 2305.16225): a word with ten meanings, chosen by the timestep."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..backbones.protocol import Attached, Backbone
from ..backbones.words import NewWords
from ..config.fields import setting
from ..config.training import ShowsContent, ShowsStyle, TrainConfig
from ..core.errors import UserError
from ..data.inputs import Inputs
from ..files.opening import Opened, save_method_file
from .denoising import DenoisingTask
from .low_rank import count, kind_of, words_of
from .protocol import Batch, Pair
from .tokens import AttachedWords, LearnedWords, TokenLearner, check_captions, read_vectors, trigger_in

STAGES = 10  # stage 1 is the start of a generation, pure noise: index 9; stage 10 its end: index 0
RESULT = "prospect.safetensors"


@dataclass(frozen=True, kw_only=True)
class Prospect(TrainConfig):
    """Settings of a concept. The ten vectors are learned as they are, without the paper's network before them."""

    own_presets = {"sdxl": dict(steps=600, lr=2e-3), "embedded": dict(lr=0.256, steps=400)}

    initial_word: str | None = setting("the plain word that the new one starts as (default: the class)", None)
    first_stage: int = setting(
        "the first of ten stages, from noise to image, in which the word is read; before it the prompt lacks it",
        1,
        low=1,
        high=STAGES,
    )
    last_stage: int = setting("the last of these stages", STAGES, low=1, high=STAGES)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first_stage > self.last_stage:
            raise UserError(
                f"--first-stage {self.first_stage} comes after --last-stage {self.last_stage}: exchange them"
            )


@dataclass(frozen=True, kw_only=True)
class ProspectContentConfig(ShowsContent, Prospect):
    """A content: stages 3 to 10, as the paper's examples have it, which leaves the layout to the prompt."""

    stage, result, needs = "prospect-content", RESULT, ("content_dir",)
    own_presets = {"sdxl": dict(first_stage=3), "embedded": dict(first_stage=3)}


@dataclass(frozen=True, kw_only=True)
class ProspectStyleConfig(ShowsStyle, Prospect):
    """A style: stages 6 to 10, those of material and style in the paper."""

    stage, result, needs = "prospect-style", RESULT, ("style_dir",)
    own_presets = {"sdxl": dict(first_stage=6), "embedded": dict(first_stage=6)}


def index(timestep: float, train_timesteps: int = 1000) -> int:
    """Which of the ten vectors a timestep reads: floor(10 t / T)."""
    return min(int(STAGES * timestep / train_timesteps), STAGES - 1)


def staged(trigger: str) -> list[str]:
    """The ten words, by index."""
    return [f"{trigger}-{number}" for number in range(STAGES)]


def spoken(prompt: str, trigger: str, number: int, stages: tuple[int, int]) -> str:
    """The prompt with the word of index `number` for the trigger, or without any outside of the stages."""
    inside = stages[0] <= STAGES - number <= stages[1]
    word = f"{trigger}-{number}" if inside else ""
    pattern = rf"(?<!\w){re.escape(trigger)}(?!\w)"
    return " ".join(re.sub(pattern, lambda _: word, prompt).split())


class ProspectTask(DenoisingTask):
    """One concept's images, whose captions hold its word."""

    def __init__(self, config: Prospect) -> None:
        kind = kind_of(config)
        prompt, trigger = (getattr(config, f"{kind}_{name}") for name in ("prompt", "trigger"))
        super().__init__(config, {kind: prompt}, prompt)
        check_captions(self.inputs.prompts, trigger)

    def start(self, backbone: Backbone) -> "ProspectLearner":
        return ProspectLearner(backbone, self.inputs, self.config)


class ProspectLearner(TokenLearner):
    """The ten vectors of one word; a sample trains the one of its timestep, whatever the stages of drawing."""

    def __init__(self, backbone: Backbone, inputs: Inputs, config: Any) -> None:
        kind = kind_of(config)
        self.trigger = getattr(config, f"{kind}_trigger")
        plain = config.initial_word or getattr(config, f"{kind}_class") or kind
        super().__init__(backbone, inputs, config, kind, dict.fromkeys(staged(self.trigger), plain))
        self.train_timesteps = len(backbone.alphas_cumprod)
        backbone.attached = LearnedStages(self.words, config, self.train_timesteps)

    def prompts(self, batch: Batch) -> list[str]:
        numbers = [index(t, self.train_timesteps) for t in batch.timesteps.tolist()]
        told = super().prompts(batch)
        return [
            spoken(prompt, self.trigger, number, (1, STAGES))
            for prompt, number in zip(told, numbers, strict=True)
        ]

    def save(self, folder: Path, facts: Mapping[str, str]) -> None:
        config, kind = self.config, kind_of(self.config)
        told = {**words_of(config, kind), "trained_parameters": str(count(self.named))}
        told |= {"first_stage": str(config.first_stage), "last_stage": str(config.last_stage)}
        tensors = {table: rows.detach() for table, rows in self.words.rows.items()}
        save_method_file(
            folder / RESULT, "prospect", tensors, self.backbone.denoiser, {**facts, **told}, role=kind
        )


class LearnedStages(LearnedWords):
    """The words of a training, for its sample images: in their stages."""

    def __init__(self, words: NewWords, config: Any, train_timesteps: int) -> None:
        super().__init__(words, kind_of(config))
        self.config, self.train_timesteps = config, train_timesteps

    def prompt_at(self, prompt: str, timestep: float) -> str:
        if not self.words.active:
            return prompt
        config = self.config
        trigger, stages = getattr(config, f"{self.kinds[0]}_trigger"), (config.first_stage, config.last_stage)
        return spoken(prompt, trigger, index(timestep, self.train_timesteps), stages)


class AttachedStages(AttachedWords):
    """Words from files, each read in its stages. stages: kind -> first and last; triggers: kind -> word."""

    def __init__(
        self,
        backbone: Backbone,
        triggers: Mapping[str, str],
        stages: Mapping[str, tuple[int, int]],
        vectors: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        self.triggers, self.stages = triggers, stages
        self.train_timesteps = len(backbone.alphas_cumprod)
        words: dict[str, Sequence[str]] = {kind: staged(trigger) for kind, trigger in triggers.items()}
        super().__init__(backbone, words, vectors)

    def prompt_at(self, prompt: str, timestep: float) -> str:
        number = index(timestep, self.train_timesteps)
        for kind in self.kinds:
            prompt = spoken(prompt, self.triggers[kind], number, self.stages[kind])
        return prompt


class ProspectMethod:
    """The method: a content's word and a style's in one prompt, each in its stages."""

    name, doc = "prospect", "new words with a meaning for each of ten stages (ProSpect)"
    jobs = (ProspectContentConfig, ProspectStyleConfig)
    triggers = True
    by_sample = False
    two_dials = True

    def task(self, config: Any) -> ProspectTask:
        return ProspectTask(config)

    def files(self, pair: Pair) -> dict[str, Path]:
        content, style = pair.train(ProspectContentConfig), pair.train(ProspectStyleConfig)
        return {"content_file": content, "style_file": style}

    def attach(self, backbone: Backbone, files: Mapping[str, Opened]) -> Attached:
        vectors = {kind: read_vectors(opened, backbone, rows=STAGES) for kind, opened in files.items()}
        triggers = {kind: trigger_in(opened, kind) for kind, opened in files.items()}
        stages = {kind: _stages(opened) for kind, opened in files.items()}
        return AttachedStages(backbone, triggers, stages, vectors)


def _stages(opened: Opened) -> tuple[int, int]:
    found = [opened.metadata.get(f"b4m.{name}_stage", "") for name in ("first", "last")]
    if not all(number.isascii() and number.isdigit() for number in found):
        raise UserError(f"{opened.where}: does not say in which stages its word is read; train it again")
    return int(found[0]), int(found[1])
