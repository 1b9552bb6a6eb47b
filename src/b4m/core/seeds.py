"""Random generators that are functions of a key, the same on every machine."""

import hashlib

import torch


def seeded(*key: int | str) -> torch.Generator:
    """A CPU generator that is a function of `key` alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
