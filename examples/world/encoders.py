"""Train the embedded encoders: a picture's content, style, background, colour and prompt can be scored offline.

    python examples/world/encoders.py                  # trains all, then measures them
    python examples/world/encoders.py --only style     # trains one
    python examples/world/encoders.py --check          # measures only; exits 1 when a goal is missed

Each is a folder of `transformers`, in `examples/world/encoders`. They are the measuring instrument: they have seen the
held-out contents and styles, though never the pictures that they are tested or used on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetForImageClassification

from world.check_encoders import ENCODERS, LABELS, check, labels, triggered
from world.classifier import STYLE_NAMES, any_scene
from world.dataset import as_tensor
from world.render import BACKGROUNDS, COLOURS, CONTENTS, Scene, caption, render
from world.vocabulary import MAX_TOKENS, noisy_caption, tokenizer

SHIFT = 3  # pixels, each way
SCALE, MARGIN = 16.0, 0.1  # of the cosine softmax
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 64, "width": 64},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


@dataclass(frozen=True)
class Namer:
    """Size and length of one of the encoders that learn by naming what they see."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    steps: int
    batch: int = 64


NAMERS = {
    "content": Namer((32, 64, 96, 128), (1, 2, 1, 1), 3000),
    "style": Namer((32, 64, 96, 128), (1, 1, 1, 1), 2500),
    "background": Namer((24, 32, 48, 64), (1, 1, 1, 1), 1500),
    "colour": Namer((24, 32, 48, 64), (1, 1, 1, 1), 2000),
}
PROMPT_STEPS, PROMPT_BATCH = 1300, 128
POOL = (6, 5)  # contents and styles that the pictures of one contrastive batch are drawn from
WORLD_WORDS = (*CONTENTS, *STYLE_NAMES, *COLOURS, *BACKGROUNDS)


# --- pictures --------------------------------------------------------------------------------------


def training_set(count: int, cache: Path) -> tuple[list[Scene], np.ndarray]:
    """`count` scenes and their pictures (count, 64, 64, 3) uint8, drawn into `cache` unless they are already there."""
    rng = np.random.default_rng([78, 0])
    scenes = [any_scene(rng)[0] for _ in range(count)]
    path = cache / f"encoders-{count}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".part"), "wb") as part:
            np.save(part, np.stack([render(scene) for scene in tqdm(scenes, "drawing", mininterval=5)]))
        path.with_suffix(".part").rename(path)
    return scenes, np.load(path)


def blemish(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts, blur, contrast, stains and noise, as in generated pictures: what is drawn is to count, not its finish."""
    n, _, height, width = pictures.shape
    padded = nn.functional.pad(pictures, (SHIFT,) * 4, mode="replicate")
    corners = torch.randint(2 * SHIFT + 1, (n, 2), generator=generator).tolist()
    moved = torch.stack(
        [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, corners, strict=True)]
    )
    blurred = nn.functional.avg_pool2d(nn.functional.pad(moved, (1,) * 4, mode="replicate"), 3, stride=1)
    mix, stain, noise, gain = torch.rand(4, n, 1, 1, 1, generator=generator)
    out = moved.lerp(blurred, mix) * (0.93 + 0.14 * gain)
    stains = torch.randn(n, 3, height // 4, width // 4, generator=generator)
    out = out + 0.2 * stain * nn.functional.interpolate(stains, scale_factor=4, mode="bilinear")
    return out + 0.15 * noise * torch.randn(out.shape, generator=generator)


# --- content, style, background, colour: a cosine softmax --------------------------------------------------


def cosines(model: ResNetForImageClassification, pictures: Tensor) -> Tensor:
    """Cosine (N, classes) between each picture's embedding and the head's row for each class."""
    with torch.autocast("cpu", torch.bfloat16):
        features = model.resnet(pixel_values=pictures).pooler_output.flatten(1)
    rows = model.classifier[-1].weight
    return nn.functional.normalize(features.float(), dim=1) @ nn.functional.normalize(rows, dim=1).T


def blank_namer(aspect: str) -> ResNetForImageClassification:
    namer = NAMERS[aspect]
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=namer.widths[0],
            hidden_sizes=list(namer.widths),
            depths=list(namer.depths),
            layer_type="basic",
            id2label=dict(enumerate(LABELS[aspect])),
            label2id={name: i for i, name in enumerate(LABELS[aspect])},
        )
    )


def train_namer(aspect: str, scenes: list[Scene], pixels: np.ndarray) -> ResNetForImageClassification:
    """An encoder that names `aspect` whatever else the picture shows.

    The head's rows are left as unit vectors times SCALE and its bias at zero, so that its largest logit is the row of
    the largest cosine.
    """
    namer, targets = NAMERS[aspect], torch.tensor(labels(scenes, aspect))
    model = blank_namer(aspect).train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    for bar in _steps(model, aspect, namer.steps, 4e-3):
        rows = torch.randint(len(scenes), (namer.batch,), generator=generator)
        pictures = blemish(as_tensor(pixels[rows.numpy()]), generator)
        cosine = cosines(model, pictures.contiguous(memory_format=torch.channels_last))
        wanted = nn.functional.one_hot(targets[rows], cosine.shape[1])
        loss = nn.functional.cross_entropy(SCALE * (cosine - MARGIN * wanted), targets[rows])
        loss.backward()
        bar.set_postfix(loss=loss.item(), refresh=False)
    head = model.classifier[-1]
    with torch.no_grad():
        head.weight.copy_(SCALE * nn.functional.normalize(head.weight, dim=1))
        head.bias.zero_()
    return model


def _steps(model: nn.Module, title: str, count: int, rate: float) -> Iterator[tqdm]:
    """`count` turns of a progress bar, each followed by a step along the gradients that the turn has left."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=count, pct_start=0.1)
    for _ in (bar := tqdm(range(count), title, mininterval=10)):
        yield bar
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


# --- prompt: a contrast of pictures and captions ---------------------------------------------------


def blank_prompt_encoder(words) -> CLIPModel:
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(words),
                "hidden_size": 64,
                "intermediate_size": 256,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": MAX_TOKENS,
                "bos_token_id": words.bos_token_id,
                "eos_token_id": words.eos_token_id,
                "pad_token_id": words.pad_token_id,
            },
            vision_config={
                "image_size": 64,
                "patch_size": 8,
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
            },
            projection_dim=64,
            attn_implementation="eager",
        )
    )


def spoken(scene: Scene, rng: np.random.Generator) -> str:
    """One of the captions that `scene` may go by: plain, noisy, or with trigger words."""
    kind = rng.random()
    return caption(scene) if kind < 0.3 else triggered(scene) if kind < 0.5 else noisy_caption(scene, rng)


def describes(captions: list[str], scenes: list[Scene]) -> Tensor:
    """Which captions (rows) are true of which scenes (columns): no word of the world in them says otherwise.

    Caption i is true of scene i in any case: a made-up word may happen to be one of the world's, such as "cup".
    """
    truths = [{s.content, s.style, s.colour, s.background} for s in scenes]
    true = torch.tensor([[word in t for word in WORLD_WORDS] for t in truths]).float()
    said = torch.tensor([[w in c for w in WORLD_WORDS] for c in (set(c.split()) for c in captions)]).float()
    return (said @ true.T == said.sum(1, keepdim=True)).float().fill_diagonal_(1)


def contrastive_batch(cells: dict[tuple[int, int], list[int]], rng: np.random.Generator) -> np.ndarray:
    """Pictures of a few contents in a few styles, so that most pairs differ in one thing only."""
    contents = rng.choice(1 + max(c for c, _ in cells), POOL[0], replace=False)
    styles = rng.choice(1 + max(s for _, s in cells), POOL[1], replace=False)
    pool = [row for c in contents for s in styles for row in cells.get((int(c), int(s)), ())]
    return rng.choice(pool, min(PROMPT_BATCH, len(pool)), replace=False)


def train_prompt(scenes: list[Scene], pixels: np.ndarray) -> CLIPModel:
    """A CLIP of pictures and captions; a caption's positives are all pictures of the batch that it is true of."""
    words = tokenizer()
    model = blank_prompt_encoder(words).train()
    cells: dict[tuple[int, int], list[int]] = {}
    for row, cell in enumerate(zip(labels(scenes, "content"), labels(scenes, "style"), strict=True)):
        cells.setdefault(cell, []).append(row)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    for bar in _steps(model, "prompt", PROMPT_STEPS, 1e-3):
        rows = contrastive_batch(cells, rng)
        batch = [scenes[row] for row in rows]
        captions = [spoken(scene, rng) for scene in batch]
        pictures = blemish(as_tensor(pixels[rows]), generator)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(pixel_values=pictures, **words(captions, padding=True, return_tensors="pt"))
        logits, positive = out.logits_per_text.float(), describes(captions, batch)
        loss = _contrast(logits, positive) + _contrast(logits.T, positive.T)
        loss.backward()
        bar.set_postfix(loss=loss.item(), refresh=False)
    words.save_pretrained(ENCODERS / "prompt")
    return model


def _contrast(logits: Tensor, positive: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, positive / positive.sum(1, keepdim=True))


# --- all of it -------------------------------------------------------------------------------------


def train(which: str, scenes: list[Scene], pixels: np.ndarray) -> None:
    """Train one encoder and write its folder: float16 weights, and how to prepare a picture."""
    torch.manual_seed(0)
    start = time.process_time()
    model = train_prompt(scenes, pixels) if which == "prompt" else train_namer(which, scenes, pixels)
    model.half().save_pretrained(ENCODERS / which)
    (ENCODERS / which / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{which}: {time.process_time() - start:.0f} s of one core, {size:.2f} M parameters")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=(*NAMERS, "prompt"), help="train this one alone")
    parser.add_argument("--check", action="store_true", help="train nothing, measure what is there")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "b4m-encoders")
    options = parser.parse_args()
    if not options.check:
        drawn = training_set(options.pictures, options.cache)
        for which in [options.only] if options.only else [*NAMERS, "prompt"]:
            train(which, *drawn)
    return 0 if check() else 1


if __name__ == "__main__":
    raise SystemExit(main())
