"""The second stage's teacher: the sum of two files' predictions, on paths that it draws itself and keeps in a file."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from ..backbones.cache import Cache
from ..backbones.protocol import Backbone, Conditions
from ..config.stages import SecondConfig
from ..core.errors import UserError
from ..core.storage import fingerprint, read_tensors, reason, write_tensors
from ..data.images import whole
from ..data.inputs import Inputs, Source
from ..files.concept import Concept
from ..maths.composing import Terms, composed_predictions
from ..maths.distillation import place, walk
from .factors import AttachedFactors

TEACHER = "teacher.safetensors"
STEPS = 25  # of a path, as images are drawn
AT_ONCE = 4  # paths of a batch; another number would give other bits
ALONE = {"content": composed_predictions(1, 0), "style": composed_predictions(0, 1)}
ALONE_PROMPTS = ("{}", "{} on a white background")
TENSORS = ("states", "answers", "empties")


@dataclass(frozen=True)
class Lesson:
    """One path: its prompt, and the sum of predictions that is the answer there."""

    prompt: str
    terms: Terms


def lessons_of(config: SecondConfig, concepts: Mapping[str, Concept]) -> list[Lesson]:
    """`teacher_paths` under prompts that call both, a quarter as many under each file's own. Raises UserError."""
    own = {
        kind: concept.metadata.get("prompt", getattr(config, f"{kind}_prompt"))
        for kind, concept in concepts.items()
    }
    words = {
        "content": _without(own["content"], "a photo of ", "") or config.content_words,
        "style": _without(own["style"], "a picture in ", " style") or config.style_name,
    }
    try:
        prompts = [template.format(**words) for template in config.pair_prompts]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            "--pair-prompts: only {content} and {style} can be filled in; write other braces twice"
        ) from error
    both = composed_predictions(config.content_weight, config.style_weight)
    count = config.teacher_paths
    lessons = [Lesson(prompt, both) for prompt in islice(cycle(prompts), count)]
    for kind, terms in ALONE.items():
        alone = [template.format(own[kind]) for template in ALONE_PROMPTS]
        lessons += [Lesson(prompt, terms) for prompt in islice(cycle(alone), max(1, count // 4))]
    return lessons


def _without(prompt: str, start: str, end: str) -> str:
    """What stands between the usual words of a prompt; "" for a prompt without them."""
    usual = prompt.startswith(start) and prompt.endswith(end)
    return prompt.removeprefix(start).removesuffix(end) if usual else ""


def with_teacher(inputs: Inputs, config: SecondConfig, lessons: Sequence[Lesson]) -> Inputs:
    """The inputs with the teacher's samples: of joint paths, of paths of either concept alone, of the empty prompt on
    the joint paths. Each path is an "image", which is still to be drawn.

    Joint ones are half of the teacher's samples, the others a quarter each.
    """
    first, joint, rows = len(inputs.images), config.teacher_paths, config.target_rows
    image = replace(whole(config.resolution), path=Path(config.output_dir) / TEACHER)
    prompts = [*(lesson.prompt for lesson in lessons), *[""] * joint]
    ends = (0, joint, len(lessons), len(prompts))
    cost = f"{(4 * joint + 2 * (len(lessons) - joint)) * STEPS:,} predictions before the first step"
    labels = (f"teacher ({cost})", "either alone", "teacher under the empty prompt")
    sources = tuple(
        Source("content", False, tuple(range(first + start, first + end)), samples, prior=True, label=label)
        for start, end, samples, label in zip(ends, ends[1:], (2 * rows, rows, rows), labels, strict=False)
    )
    return replace(
        inputs,
        sources=(*inputs.sources, *sources),
        images=(*inputs.images, *[image] * len(prompts)),
        prompts=(*inputs.prompts, *prompts),
        beside="teacher_loss",
    )


@dataclass(frozen=True)
class Teacher:
    """All paths. Row i of `states` and `answers` (paths, steps, c, h, w) float32 belongs to image first + i."""

    first: int  # image
    states: Tensor
    answers: Tensor
    timesteps: Tensor  # (steps,)
    unguided: Conditions  # a row: what the empty prompt is read as

    def to(self, device: torch.device) -> "Teacher":
        names = ("states", "answers", "timesteps")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def at(self, images: Tensor, timesteps: Tensor, train_timesteps: int) -> tuple[Tensor, Tensor, Tensor]:
        """States (k, c, h, w), their timesteps (k,) and the answers there, of the step that each timestep falls to."""
        steps = place(timesteps, len(self.timesteps), train_timesteps)
        rows = images - self.first
        return self.states[rows, steps], self.timesteps[steps], self.answers[rows, steps]

    def retell(self, cache: Cache) -> Cache:
        """The cache with the empty prompt as guided sampling reads it (SDXL: zeros), not as the text encoders do."""
        row = cache.prompt[-1]  # the last image has it
        for name, rows in cache.by_prompt.items():
            rows[row] = self.unguided[name][0].to(rows)
        return cache


def draw_teacher(
    inputs: Inputs,
    config: SecondConfig,
    backbone: Backbone,
    lessons: Sequence[Lesson],
    concepts: Mapping[str, Concept],
) -> tuple[Inputs, Teacher]:
    """The teacher, and the inputs with its paths as latents: those of an earlier run in this folder, else drawn now.

    The files are on the denoiser. One process draws, the others read its file. Raises UserError where the disk refuses.
    """
    with PartialState().main_process_first():
        drawn = _drawn(config, backbone, lessons, concepts)
    joint = config.teacher_paths
    states, answers, empties = (drawn[name] for name in TENSORS)
    states, answers = torch.cat([states, states[:joint]]), torch.cat([answers, empties[:joint]])
    first = len(inputs.images) - len(states)
    images = [replace(image, latents=z[0]) for image, z in zip(inputs.images[first:], states, strict=True)]
    teacher = Teacher(first, states, answers, drawn["timesteps"], backbone.encode_unguided())
    return replace(inputs, images=(*inputs.images[:first], *images)), teacher


def _drawn(
    config: SecondConfig, backbone: Backbone, lessons: Sequence[Lesson], concepts: Mapping[str, Concept]
) -> dict[str, Tensor]:
    """TENSORS and the timesteps. Written after every batch, so that a run that is stopped here goes on where it was."""
    path = Path(config.output_dir) / TEACHER
    told = repr([(lesson.prompt, *lesson.terms) for lesson in lessons])
    made_with = {
        **{kind: fingerprint(concept.everything, {}) for kind, concept in concepts.items()},
        "base_model": config.base_model,
        "seed": str(config.seed),
        "resolution": str(config.resolution),
        "precision": config.mixed_precision,
        "guidance": str(config.teacher_guidance),
        "lessons": sha256(told.encode()).hexdigest(),
    }
    found = _found(path, made_with)
    there = len(found.get("states", ()))
    if there == len(lessons):
        return found
    if torch.cuda.is_available():
        backbone.to("cuda")
    with tqdm(total=len(lessons), initial=there, desc="teacher's paths") as bar:
        for some in _batches(config, backbone, lessons, there):
            found = {
                name: torch.cat([found[name], new]) if name in TENSORS and found else new
                for name, new in some.items()
            }
            write_tensors(path, found, made_with)
            bar.update(len(some["states"]))
    backbone.to("cpu")  # where a model starts from
    return found


def _found(path: Path, made_with: Mapping[str, str]) -> dict[str, Tensor]:
    """What an earlier run has drawn with these settings; what is damaged, or of others, is drawn anew."""
    if not path.exists():
        return {}
    try:
        tensors, metadata = read_tensors(path)
    except UserError as error:
        tqdm.write(f"{path}: drawn anew ({reason(error)})")
        return {}
    return tensors if all(metadata.get(name) == value for name, value in made_with.items()) else {}


def _batches(
    config: SecondConfig, backbone: Backbone, lessons: Sequence[Lesson], there: int
) -> Iterator[dict[str, Tensor]]:
    """The paths that are not there yet, AT_ONCE of one sum after another, on the CPU."""
    for start, end in _runs(lessons):
        if start < there:
            continue
        terms = lessons[start].terms
        prompts = [lesson.prompt for lesson in lessons[start:end]]
        scheduler = backbone.sampler(STEPS)
        scheduler.set_timesteps(STEPS, device=backbone.denoiser.device)
        noise = _noise(config, backbone, range(start, end))
        asked = _Asked(backbone, prompts, config.resolution)
        three = walk(asked.prompted, asked.unprompted, noise, terms, config.teacher_guidance, scheduler)
        timesteps = scheduler.timesteps.float()
        yield {
            name: t.float().cpu()
            for name, t in zip((*TENSORS, "timesteps"), (*three, timesteps), strict=True)
        }


def _runs(lessons: Sequence[Lesson]) -> Iterator[tuple[int, int]]:
    """Neighbours of one sum, at most AT_ONCE: (first, end)."""
    start = 0
    for end in range(1, len(lessons) + 1):
        if end == len(lessons) or end - start == AT_ONCE or lessons[end].terms != lessons[start].terms:
            yield start, end
            start = end


def _noise(config: SecondConfig, backbone: Backbone, numbers: Sequence[int]) -> Tensor:
    """(k, c, h, w) float32: of path i from the seed and i alone."""
    side = config.resolution // backbone.pipe.vae_scale_factor
    shape = backbone.denoiser.config.in_channels, side, side
    drawn = [
        torch.randn(shape, generator=torch.Generator().manual_seed(config.seed + number))
        for number in numbers
    ]
    return torch.stack(drawn).to(backbone.denoiser.device)


class _Asked:
    """The attached factors' predictions under some prompts, and under none."""

    def __init__(self, backbone: Backbone, prompts: Sequence[str], size: int) -> None:
        self.backbone, self.attached = backbone, backbone.attached
        device, dtype = backbone.denoiser.device, backbone.denoiser.dtype
        image = backbone.image_conditions(whole(size))

        def rows(conditions: Conditions) -> Conditions:
            every = {**conditions, **{name: value[None] for name, value in image.items()}}
            return {
                name: value.expand(len(prompts), *value.shape[1:]).to(device, dtype)
                for name, value in every.items()
            }

        with torch.no_grad():
            self.told, self.empty = rows(backbone.encode_prompts(prompts)), rows(backbone.encode_unguided())

    def prompted(self, state: Tensor, timestep: Tensor, terms: Terms) -> Tensor:
        return self._sum(state, timestep, terms, self.told)

    def unprompted(self, state: Tensor, timestep: Tensor, terms: Terms) -> Tensor:
        return self._sum(state, timestep, terms, self.empty)

    def _sum(self, state: Tensor, timestep: Tensor, terms: Terms, conditions: Conditions) -> Tensor:
        assert isinstance(self.attached, AttachedFactors)
        predictions = [
            weight
            * self.backbone.predict(
                state, timestep, conditions, self.attached.arguments(content, style)
            ).float()
            for weight, content, style in terms
        ]
        return torch.stack(predictions).sum(0)
