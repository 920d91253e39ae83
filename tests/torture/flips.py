"""A real checkpoint with one bit flipped, cut short, lengthened, or with a sector of zeros: all refused, in one line each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from trainkit.checkpoint import file as checkpoint
from trainkit.core.errors import UserError

from .kills import ROOT
from .tally import Tally, inside, shot, watched

REFUSED = "refused, in one line that names the file"


def damage(folder: Path, flips: int, cuts: int, sectors: int, seed: int = 0) -> list[Tally]:
    """Load a checkpoint with `flips` flipped bits, one at a time, `cuts` lengths and `sectors` damaged sectors."""
    draw = random.Random(seed)
    with inside(folder):
        made = shot("fit", ROOT / "conf/mlp.yaml", "trainer.max_epochs=2", "--run-dir", "run")
        assert made.code == 0, made.err
        data = Path("run/checkpoints/last.pt").read_bytes()
        return [
            refused(f"one bit of {8 * len(data):,} flipped", flipped(data, flips, draw)),
            refused("cut short", (data[: draw.randrange(len(data))] for _ in range(cuts))),
            refused("a sector of 512 bytes is zeros, or another's", sectored(data, sectors, draw)),
            refused("bytes after its end", (data + draw.randbytes(draw.randrange(1, 600)) for _ in range(sectors))),
        ]


def flipped(data: bytes, n: int, draw: random.Random) -> Iterator[bytes]:
    for at in draw.sample(range(8 * len(data)), n):
        yield data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def sectored(data: bytes, n: int, draw: random.Random) -> Iterator[bytes]:
    whole = range(0, len(data) - 512, 512)
    while n:
        at, other = draw.choice(whole), draw.choice(whole)
        sector = draw.choice([bytes(512), data[other : other + 512]])
        if data[at : at + 512] != sector:
            n -= 1
            yield data[:at] + sector + data[at + 512 :]


def refused(case: str, files: Iterator[bytes]) -> Tally:
    """Load each file; each must be refused."""
    tally, path = Tally(case, REFUSED), Path("damaged.pt")
    for data in files:
        path.write_bytes(data)
        with watched() as took:
            try:
                checkpoint.load(path)
                wrong = f"{len(data)} bytes were loaded"
            except UserError as error:
                wrong = None if "damaged.pt" in str(error) and "\n" not in str(error) else str(error)
            except Exception as error:
                wrong = repr(error)
        tally.count(wrong or tally.measure(*took))
    return tally
