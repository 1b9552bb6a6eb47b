"""From settings to a model that can take its first step: base model, what learns, caches, places on the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accelerate import Accelerator
from torch import Tensor

from ..backbones.attention import kernels
from ..backbones.cache import Cache
from ..backbones.dry_pass import dry_pass
from ..backbones.footprint import estimate_line
from ..backbones.frozen import kernels_line, place, quantize
from ..backbones.registry import open_backbone
from ..config.training import TrainConfig
from ..data.findings import brief, quoted
from ..data.summary import summarise
from ..methods.protocol import Learner, Task
from ..sampling.prompts import notes


@dataclass(frozen=True)
class Ready:
    """What learns, on its device, and what it will see."""

    learner: Learner
    cache: Cache
    preview_prompts: Sequence[str]  # what sample images show
    # Of these prompts, where there will be sample images and what they are told stays the same.
    embeddings: dict[str, Tensor] | None
    entries: Sequence[dict] = ()  # of pictures.json: what it was shown


def start(config: TrainConfig, task: Task, accelerator: Accelerator, say: Callable[[str], None]) -> Ready:
    """Load, adapt, say what was given, encode, move. Raises UserError for a base model or files that cannot be used."""
    backbone = open_backbone(config.base_model, config.vae, config.mixed_precision)
    for side in sorted(
        {config.resolution, *(side for image in task.inputs.images for side in image.pixels.shape[1:])}
    ):
        backbone.check_size(side, "--resolution" if side == config.resolution else "--buckets: a side of")
    learner = task.start(backbone)
    summary = summarise(task.inputs, backbone.cut_off(task.inputs.prompts))
    say("\n".join(summary.lines))
    if config.quantize == "int8":
        quantize(backbone.denoiser)  # before it goes to the device, which need not hold it whole
    cache = learner.encode(accelerator.device)
    prompts = config.preview_prompts or (task.preview_prompt,)
    embeddings = None
    if config.preview_every:
        cut = backbone.cut_off(prompts)
        long = f"preview prompt longer than the {cut.limit} tokens that are read, cut off"
        for line in [
            *(f"note: {note}" for note in notes(prompts)),
            *(f"{long}: {quoted(brief(rest))}" for rest in cut.words if rest),
        ]:
            say(line)
        if not learner.reads_prompts:
            embeddings = backbone.encode_guided(prompts, None)
    backbone.free(keep_vae=bool(config.preview_every), keep_encoders=learner.reads_prompts)
    learnable = list(learner.named.values())
    samples = task.inputs.most_samples(config.gradient_accumulation * accelerator.num_processes)
    seen = dry_pass(
        backbone, cache, min(config.rows_per_pass or samples, samples), config.gradient_checkpointing
    )
    denoiser, device = backbone.denoiser, accelerator.device
    say(estimate_line(denoiser, seen, device, config, learnable, accelerator.num_processes))
    place(denoiser, config, device)
    if device.type == "cuda":
        say(kernels_line(denoiser, kernels(seen.attention, device)))
    return Ready(learner, cache, prompts, embeddings, summary.entries)
