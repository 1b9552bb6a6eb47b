"""The pretraining set: scenes of the world drawn once, kept on disk, captioned anew at every step."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor
from tqdm import tqdm

from world.render import Scene, render, sample_scene

CHUNK = 256


def scene(seed: int, index: int) -> Scene:
    """Scene `index` of the set: a function of (seed, index) alone."""
    return sample_scene(np.random.default_rng([seed, index]))


def _draw(seed: int, first: int, count: int, size: int) -> np.ndarray:
    return np.stack([render(scene(seed, first + i), size) for i in range(count)])


def pictures(folder: Path, seed: int, count: int, size: int, workers: int) -> np.ndarray:
    """Pictures (count, size, size, 3) uint8 of scenes 0..count-1, drawn into `folder` unless they are already there."""
    path = folder / f"pictures-{seed}-{count}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        array = open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        starts = range(0, count, CHUNK)
        with ProcessPoolExecutor(workers) as pool:
            jobs = [pool.submit(_draw, seed, start, min(CHUNK, count - start), size) for start in starts]
            for start, job in zip(tqdm(starts, "drawing"), jobs, strict=True):
                drawn = job.result()
                array[start : start + len(drawn)] = drawn
        array.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def as_tensor(pixels: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 to (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
