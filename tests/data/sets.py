"""Data sets at hand: the same images and captions as Parquet, WebDataset, an imagefolder, and a folder."""

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from samples import noise, stored


@dataclass(frozen=True)
class Shown:
    data: bytes  # of a PNG
    words: str
    kind: str


TOYS = [
    Shown(stored(noise(20, 16, seed), "PNG"), f"a photo of snq {kind} {seed}", kind)
    for seed, kind in enumerate(("bear", "car", "bear", "bear"))
]
BEARS = [toy for toy in TOYS if toy.kind == "bear"]


def folder(path: Path, toys=BEARS) -> Path:
    """As a user has them: images with a text beside each."""
    path.mkdir()
    for number, toy in enumerate(toys):
        (path / f"{number}.png").write_bytes(toy.data)
        (path / f"{number}.txt").write_text(toy.words)
    return path


def table(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def parquet(path: Path, toys=TOYS) -> Path:
    return table(
        path, [{"image": {"bytes": t.data, "path": None}, "words": t.words, "kind": t.kind} for t in toys]
    )


def webdataset(path: Path, toys=TOYS) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, toy in enumerate(toys):
            for suffix, data in (
                ("png", toy.data),
                ("txt", toy.words.encode()),
                ("json", json.dumps({"kind": toy.kind}).encode()),
            ):
                entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def imagefolder(path: Path, toys=TOYS) -> Path:
    """With metadata.jsonl."""
    path.mkdir()
    lines = []
    for number, toy in enumerate(toys):
        (path / f"{number}.png").write_bytes(toy.data)
        lines.append(json.dumps({"file_name": f"{number}.png", "text": toy.words, "kind": toy.kind}))
    (path / "metadata.jsonl").write_text("\n".join(lines))
    return path
