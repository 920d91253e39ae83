"""Named random streams: each is a pure function of the seed and its name."""

from __future__ import annotations

import hashlib
import random

import torch


def stream(seed: int, *name: object) -> int:
    """Return a 63-bit seed for the stream `name` of `seed`: from SHA-256, so that neighboring seeds give unrelated streams."""
    text = "/".join(map(str, (seed, *name)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *name: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator at the start of the stream `name` of `seed`."""
    return torch.Generator(device=device).manual_seed(stream(seed, *name))


def seed_globals(seed: int) -> None:
    """Seed Python's and torch's global generators. Only the user's code draws from them, so its draws repeat too."""
    random.seed(stream(seed, "python"))
    torch.manual_seed(stream(seed, "torch"))
