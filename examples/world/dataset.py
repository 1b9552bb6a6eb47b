"""The pretraining set: shards of scenes drawn and worded once and kept on disk.

python examples/world/dataset.py --first 0 --count 12      # draw shards 0..11; more can follow at any time
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from multiprocessing import Pool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from world.captions import noisy_caption
from world.scenes import Scene, render, sample_scene
from world.vocabulary import MAX_TOKENS, tokenizer

SHARD = 2048  # pictures
SIZE = 128  # pixels
WORDINGS = 8  # noisy captions of a scene
WORK = Path("outputs/pretrain2")


def scene(seed: int, index: int) -> Scene:
    """Scene `index` of the set: a function of (seed, index) alone."""
    return sample_scene(np.random.default_rng([seed, index]))


@cache
def shard_name(seed: int, shard: int, scene_of: Callable[[int, int], Scene] = scene) -> str:
    """Names the shard and what its scenes are: once sampling changes, what was drawn before is no longer found."""
    scenes = repr([scene_of(seed, shard * SHARD + i) for i in range(64)])
    return f"{seed}-{shard:03d}-{hashlib.sha256(scenes.encode()).hexdigest()[:8]}"


def draw_shard(
    work: Path, seed: int, shard: int, scene_of: Callable[[int, int], Scene] = scene
) -> np.ndarray:
    """Pictures (SHARD, 128, 128, 3) uint8 of one shard, memory-mapped; drawn unless they are on disk.

    scene_of: what scene (seed, index) is, for another set than pretraining's.
    """
    path = work / f"pictures-{shard_name(seed, shard, scene_of)}.npy"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        array = open_memmap(part, mode="w+", dtype=np.uint8, shape=(SHARD, SIZE, SIZE, 3))
        for i in tqdm(range(SHARD), f"drawing {path.stem}", mininterval=5):
            array[i] = render(scene_of(seed, shard * SHARD + i), SIZE)
        array.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def worded_shard(work: Path, seed: int, shard: int) -> np.ndarray:
    """Noisy captions of one shard's scenes, as tokens (SHARD, WORDINGS, MAX_TOKENS) int16; made unless on disk."""
    path = work / f"wordings-{shard_name(seed, shard)}.npy"
    if not path.exists():
        captions = []
        for index in range(shard * SHARD, (shard + 1) * SHARD):
            rng, one = np.random.default_rng([1, seed, index]), scene(seed, index)
            captions += [noisy_caption(one, rng) for _ in range(WORDINGS)]
        ids = tokenizer()(captions, padding="max_length", truncation=True).input_ids
        part = path.with_suffix(".part.npy")
        np.save(part, np.array(ids, np.int16).reshape(SHARD, WORDINGS, MAX_TOKENS))
        part.rename(path)
    return np.load(path)


def prepare_shard(shard: int, work: Path, seed: int) -> None:
    """Word and draw a shard. In this order: one that is drawn is complete."""
    worded_shard(work, seed, shard)
    draw_shard(work, seed, shard)


def drawn_shards(work: Path, seed: int) -> list[np.ndarray]:
    """The shards on disk, from the first to the last before a gap."""
    shards: list[np.ndarray] = []
    while (work / f"pictures-{shard_name(seed, len(shards))}.npy").exists():
        shards.append(draw_shard(work, seed, len(shards)))
    return shards


def as_tensor(pixels: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1] on a device."""
    return torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures_of(shards: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
    """Rows of all shards as (N, 3, 128, 128) in [-1, 1]."""
    return as_tensor(np.stack([shards[row // SHARD][row % SHARD] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="first shard")
    parser.add_argument("--count", type=int, default=12, help=f"shards of {SHARD} pictures")
    parser.add_argument("--processes", type=int, default=1, help="that draw a shard each")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    prepare = partial(prepare_shard, work=options.work, seed=options.seed)
    with Pool(options.processes) as pool:
        for _ in pool.imap(prepare, range(options.first, options.first + options.count)):
            pass


if __name__ == "__main__":
    main()
