"""The pretraining set: shards of scenes drawn once and kept on disk, captioned anew at every step.

python examples/world/dataset.py --first 0 --count 12      # draw shards 0..11; more can follow at any time
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from world.scenes import Scene, render, sample_scene

SHARD = 2048  # pictures
SIZE = 128  # pixels
WORK = Path("outputs/pretrain2")


def scene(seed: int, index: int) -> Scene:
    """Scene `index` of the set: a function of (seed, index) alone."""
    return sample_scene(np.random.default_rng([seed, index]))


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


def drawn_shards(work: Path, seed: int) -> list[np.ndarray]:
    """The shards on disk, from the first to the last before a gap."""
    shards: list[np.ndarray] = []
    while (work / f"pictures-{shard_name(seed, len(shards))}.npy").exists():
        shards.append(draw_shard(work, seed, len(shards)))
    return shards


def as_tensor(pixels: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def pictures_of(shards: Sequence[np.ndarray], rows: np.ndarray) -> Tensor:
    """Rows of all shards as (N, 3, 128, 128) in [-1, 1]."""
    return as_tensor(np.stack([shards[row // SHARD][row % SHARD] for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first", type=int, default=0, help="first shard; several processes can share the work"
    )
    parser.add_argument("--count", type=int, default=12, help=f"shards of {SHARD} pictures")
    options = parser.parse_args()
    for shard in range(options.first, options.first + options.count):
        draw_shard(options.work, options.seed, shard)


if __name__ == "__main__":
    main()
