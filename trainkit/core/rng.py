"""Every random number comes from a named stream: a pure function of the seed and the stream's name."""

from __future__ import annotations

import hashlib
import random

import torch


def stream(seed: int, *name: object) -> int:
    """A 63-bit seed for the stream `name` of `seed`: the head of SHA-256, so that neighbours are unrelated."""
    text = "/".join(map(str, (seed, *name)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *name: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator at the start of the stream `name` of `seed`."""
    return torch.Generator(device=device).manual_seed(stream(seed, *name))


def seed_globals(seed: int) -> None:
    """Python's and torch's own generators, which no code here draws from, for a user's that does: as the run, so the next."""
    random.seed(stream(seed, "python"))
    torch.manual_seed(stream(seed, "torch"))
