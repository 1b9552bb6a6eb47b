"""Train the encoders that score pictures offline: content, style, background, colour, and prompt.

    python examples/world/encoders.py namers        # the first four, which share half of their layers
    python examples/world/encoders.py prompt        # a CLIP of pictures and captions
    python examples/world/encoders.py check         # measures all of them; exits 1 where a goal is missed

Each is a folder of `transformers` in --encoders. They know the particular members of all three sets, which no base has
seen, and have not seen the pictures that they are measured or used on. A training that was stopped goes on from its
state in --work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot
from torch.optim.swa_utils import update_bn
from tqdm import tqdm
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from world.check_encoders import ENCODERS, check
from world.dataset import SHARD, WORK, draw_shard, pictures_of
from world.judge import soften
from world.likeness import any_scene, targets
from world.members import LABELS
from world.prompt_encoder import train_prompt
from world.run import Run

RATE = 2e-3
SCALE, MARGIN = 16.0, 0.1  # of the cosine softmax
SHARED = 2  # stages of four
SETTLING = 32  # batches
BATCHES = {"namers": 64, "prompt": 128}  # contrast is better the more there is to tell apart
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 128, "width": 128},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def blank_namer(aspect: str) -> ResNetForImageClassification:
    names = LABELS[aspect]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 2, 1, 1],
            layer_type="basic",
            id2label=dict(enumerate(names)),
            label2id={name: i for i, name in enumerate(names)},
        )
    )


class Namers(nn.Module):
    """A namer for each aspect of LABELS; all of them look at a picture with the same first stages.

    Most of the work is done there, where pictures are large: four namers cost little more than one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_aspect = nn.ModuleDict({aspect: blank_namer(aspect) for aspect in LABELS})
        first, *others = (namer.resnet for namer in self.by_aspect.values())
        for other in others:
            other.embedder = first.embedder
            for number in range(SHARED):
                other.encoder.stages[number] = first.encoder.stages[number]

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Pictures (N, 3, 128, 128) to the cosine (N, names) of each with the head's row for each name, by aspect."""
        first = next(iter(self.by_aspect.values())).resnet
        seen = first.embedder(pictures)
        for stage in first.encoder.stages[:SHARED]:
            seen = stage(seen)
        found = {}
        for aspect, namer in self.by_aspect.items():
            own = seen
            for stage in namer.resnet.encoder.stages[SHARED:]:
                own = stage(own)
            features = namer.resnet.pooler(own).flatten(1).float()
            found[aspect] = normalize(features, dim=1) @ normalize(namer.classifier[-1].weight, dim=1).T
        return found

    @torch.no_grad()
    def finish(self) -> None:
        """Heads of rows of one length, without bias: what a head names is the row nearest in angle."""
        for namer in self.by_aspect.values():
            head = namer.classifier[-1]
            head.weight.copy_(SCALE * normalize(head.weight, dim=1))
            head.bias.zero_()


def naming_loss(cosines: dict[str, Tensor], wanted: dict[str, Tensor]) -> Tensor:
    """Cosine softmax with a margin, summed over aspects; a picture that does not show one (-1) is left out of it."""
    losses = []
    for aspect, cosine in cosines.items():
        margin = MARGIN * one_hot(wanted[aspect].clamp(min=0), cosine.shape[1])
        losses.append(cross_entropy(SCALE * (cosine - margin), wanted[aspect], ignore_index=-1))
    return torch.stack(losses).sum()


def train_namers(work: Path, shards: Sequence[np.ndarray], seed: int, steps: int, batch: int) -> Namers:
    """On the shards; its state is kept in `work`, and the same call goes on with it."""
    torch.manual_seed(3)
    namers = Namers().train()
    count = len(shards) * SHARD
    scenes = [any_scene(seed, i) for i in tqdm(range(count), "labels", mininterval=10)]
    wanted = {aspect: torch.from_numpy(targets(scenes, aspect)) for aspect in LABELS}

    def pictures_of_step(step: int) -> tuple[Tensor, np.ndarray]:
        rows = np.random.default_rng([9, step]).integers(count, size=batch)
        return soften(pictures_of(shards, rows), torch.Generator().manual_seed(step)), rows

    def loss_of_step(step: int) -> Tensor:
        pictures, rows = pictures_of_step(step)
        with torch.autocast("cpu", torch.bfloat16):
            cosines = namers(pictures.contiguous(memory_format=torch.channels_last))  # 18 % less time
        return naming_loss(cosines, {aspect: numbers[rows] for aspect, numbers in wanted.items()})

    run = Run(work / "namers.safetensors", {"namers": namers}, RATE)
    run.loop(loss_of_step, steps, anneal=steps // 2)
    run.adopt_average()
    # Statistics of the batch norms belong to the weights of the last steps, not to their average.
    update_bn([pictures_of_step(step)[0] for step in range(SETTLING)], namers)
    namers.finish()
    return namers


def write(model: PreTrainedModel, folder: Path) -> None:
    """A folder of transformers: float16 weights, and how to prepare a picture."""
    model.half().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["namers", "prompt", "check"])
    parser.add_argument("--work", type=Path, default=WORK, help="where pictures and training state are kept")
    parser.add_argument("--encoders", type=Path, default=ENCODERS, help="where the folders go")
    parser.add_argument(
        "--shards", type=int, default=16, help=f"of {SHARD} pictures, drawn if there are fewer"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, help=f"default: {BATCHES}")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.part == "check":
        return 0 if check(options.encoders) else 1
    shards = [draw_shard(options.work, options.seed, n, any_scene) for n in range(options.shards)]
    told = options.work, shards, options.seed, options.steps, options.batch or BATCHES[options.part]
    if options.part == "namers":
        for aspect, namer in train_namers(*told).by_aspect.items():
            write(namer, options.encoders / aspect)
    else:
        model, words = train_prompt(*told)
        write(model, options.encoders / "prompt")
        words.save_pretrained(options.encoders / "prompt")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
