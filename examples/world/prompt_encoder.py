"""The prompt encoder: a CLIP of pictures and captions, whose batches hold pairs that differ in one thing only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from world.captions import Facts, facts, spoken
from world.dataset import SHARD, pictures_of
from world.judge import soften
from world.likeness import any_scene
from world.run import Run
from world.scenes import Scene
from world.vocabulary import MAX_TOKENS, tokenizer

RATE = 1e-3
POOL = (6, 5)  # classes and style families that the pictures of one batch are drawn from


def blank_prompt_encoder(words: CLIPTokenizer) -> CLIPModel:
    return CLIPModel(
        CLIPConfig(
            text_config={
                "vocab_size": len(words),
                "hidden_size": 96,
                "intermediate_size": 288,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": MAX_TOKENS,
                "bos_token_id": words.bos_token_id,
                "eos_token_id": words.eos_token_id,
                "pad_token_id": words.pad_token_id,
            },
            vision_config={
                "image_size": 128,
                "patch_size": 16,
                "hidden_size": 144,
                "intermediate_size": 432,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
            },
            projection_dim=96,
            attn_implementation="eager",
        )
    )


def describes(said: Sequence[Facts], shown: Sequence[Facts]) -> Tensor:
    """Which captions (rows) are true of which scenes (columns): all that they say is among the scene's facts."""
    return torch.tensor([[one <= scene for scene in shown] for one in said]).float()


def contrast(logits: Tensor, positive: Tensor) -> Tensor:
    """Cross-entropy (of rows) with all that is true of a row as its targets, in equal shares."""
    return cross_entropy(logits, positive / positive.sum(1, keepdim=True))


def cells_of(scenes: Sequence[Scene]) -> dict[tuple[str, str], list[int]]:
    """Rows of the scenes by class and style family."""
    cells: dict[tuple[str, str], list[int]] = {}
    for row, scene in enumerate(scenes):
        cells.setdefault((scene.content.kind, scene.style.family), []).append(row)
    return cells


def rows_of_batch(
    cells: dict[tuple[str, str], list[int]], batch: int, rng: np.random.Generator
) -> np.ndarray:
    """Rows of a few classes in a few style families."""
    kinds, families = (sorted(set(names)) for names in zip(*cells, strict=True))
    some = [
        rng.choice(names, min(most, len(names)), replace=False).tolist()
        for names, most in zip((kinds, families), POOL, strict=True)
    ]
    pool = [row for kind in some[0] for family in some[1] for row in cells.get((kind, family), ())]
    return rng.choice(pool, min(batch, len(pool)), replace=False)


def train_prompt(
    work: Path, shards: Sequence[np.ndarray], seed: int, steps: int, batch: int
) -> tuple[CLIPModel, CLIPTokenizer]:
    """On the shards; its state is kept in `work`, and the same call goes on with it."""
    torch.manual_seed(4)
    words = tokenizer()
    model = blank_prompt_encoder(words).train()
    scenes = [any_scene(seed, i) for i in tqdm(range(len(shards) * SHARD), "scenes", mininterval=10)]
    shown = [facts(scene) for scene in scenes]
    cells = cells_of(scenes)

    def loss_of_step(step: int) -> Tensor:
        rng = np.random.default_rng([10, step])
        rows = rows_of_batch(cells, batch, rng)
        captions, said = zip(*(spoken(scenes[row], rng) for row in rows), strict=True)
        pictures = soften(pictures_of(shards, rows), torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            out = model(pixel_values=pictures, **words(list(captions), padding=True, return_tensors="pt"))
        logits, positive = out.logits_per_text.float(), describes(said, [shown[row] for row in rows])
        return contrast(logits, positive) + contrast(logits.T, positive.T)

    run = Run(work / "prompt-encoder.safetensors", {"model": model}, RATE)
    run.loop(loss_of_step, steps, anneal=steps // 2)
    run.adopt_average()
    return model, words
