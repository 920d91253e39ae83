"""Checkpoints forged by an attacker who has read the source: the checksum is valid, the content is not."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from trainkit.checkpoint import file as checkpoint

from .tally import Tally, inside, shot

CONF = """\
seed: 0
data: {name: disk, train: 40, test: 10}
model: [{Linear: [2, 4]}, ReLU, {Dropout: 0.1}, {Linear: [4, 2]}]
loss: CrossEntropyLoss
optimizer: {SGD: {lr: 0.1, momentum: 0.9}}
trainer: {max_epochs: 2, batch_size: 10}
callbacks:
  validation_split: {}
  early_stopping: {patience: 5, restore_best: true}
  lr_scheduler: {ReduceLROnPlateau: {patience: 0}}
  checkpoint: {monitor: val/loss, save_top_k: 2, every_n_epochs: 1}
  timer: {max_time: 1000}
  tensorboard: {}
  csv_logger: {}
"""
LAST = Path("run/checkpoints/last.pt")
CANARY = Path("RAN")
RESUME, TEST = ("fit", "--resume", LAST, "trainer.max_epochs=3"), ("test", LAST)
SHOW, VERIFY = ("checkpoint", "show", LAST), ("checkpoint", "verify", LAST)
REFUSED = "refused, exit 2, no traceback; no foreign code runs; at most 2 s of CPU time and 200 MB"
HARMLESS = "refused or harmless: exit 0 or 2, no traceback; no foreign code runs; at most 2 s of CPU time and 200 MB"


def prepare() -> dict[str, Any]:
    """Make the run to forge in `made`, and a copy in `run`; return the content of its last checkpoint."""
    Path("conf.yaml").write_text(CONF)
    if not Path("made").exists():
        made = shot("fit", "conf.yaml", "--run-dir", "made")
        assert made.code == 0, made.err
    fresh()
    return checkpoint.load(LAST)


def fresh() -> None:
    shutil.rmtree("run", ignore_errors=True)
    shutil.copytree("made", "run", symlinks=True)


def sealed(data: bytes) -> bytes:
    """Return an archive with trainkit's mark and checksum."""
    head = data[:-2] + struct.pack("<H", checkpoint.COMMENT_BYTES)
    return head + checkpoint.CHECKSUM_PREFIX + hashlib.sha256(head).hexdigest().encode()


def stored(value: Any, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_protocol=protocol)
    return sealed(buffer.getvalue())


def rezipped(data: bytes, change: Callable[[str, bytes], list[tuple[str, bytes]]], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return the archive with other entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for entry in old.infolist():
            for name, body in change(entry.filename, old.read(entry)):
                new.writestr(name, body)
    return sealed(out.getvalue())


def pickled(data: bytes, body: bytes) -> bytes:
    """Return the archive with another pickle in it."""
    return rezipped(data, lambda name, old: [(name, body if name.endswith("/data.pkl") else old)])


def fire(tally: Tally, name: str, *commands: tuple[Any, ...], codes: tuple[int, ...] = (2,)) -> None:
    """Run each command on the current files. `checkpoint verify` may exit with 1."""
    for words in commands:
        seen = shot(*words)
        wrong = seen.wrong(*codes, *((1,) if words == VERIFY else ()))
        if CANARY.exists():
            wrong = "FOREIGN CODE RAN"
            CANARY.unlink()
        wrong = wrong or tally.measure(seen.seconds, seen.megabytes)
        tally.count(f"{name}: {' '.join(map(str, words[:2]))}: {wrong}" if wrong else None)


# -- code ------------------------------------------------------------------------------------------------------------------


class Calls:
    """Unpickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def gadgets() -> dict[str, Any]:
    import importlib
    import subprocess

    from trainkit.app.cli import main

    writes = f"open({str(CANARY)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {CANARY}"),
        "eval": Calls(eval, writes),
        "exec": Calls(exec, writes),
        "open": Calls(open, str(CANARY), "w"),
        "Popen": Calls(subprocess.Popen, ["touch", str(CANARY)]),
        "import": Calls(importlib.import_module, "antigravity"),
        "getattr": Calls(getattr, Calls(importlib.import_module, "os"), "system"),
        "trainkit.app.cli.main.main": Calls(main.main, ["predict", "run", "--out", str(CANARY)]),
        "torch.save": Calls(torch.save, 1, str(CANARY)),
        "a class": Calls,
        "a module": torch.nn.Linear(2, 2),
        "a set": {1, 2},
        "bytes": b"x" * 9,
    }


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield every place of a content, the root included."""
    yield path
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for k, v in below:
        yield from parts(v, (*path, k))


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of the content, tuples as lists, with `value` at that place."""
    if not path:
        return value
    copied = dict(content) if isinstance(content, dict) else list(content)
    copied[path[0]] = put(copied[path[0]], path[1:], value)
    return copied


def code(folder: Path, share: float = 1.0, seed: int = 0) -> list[Tally]:
    """Load pickles that call a function, at every place of a content, and as files of other kinds."""
    tally = Tally("a pickle that runs code, alone and at every place of a checkpoint", REFUSED)
    draw = random.Random(seed)
    with inside(folder):
        content = prepare()
        data = LAST.read_bytes()
        for name, evil in gadgets().items():
            bodies = {f"{name}, protocol {p}": pickled(data, pickle.dumps(evil, p)) for p in range(6)}
            for p in range(2, 6):
                bodies[f"{name}, alone, protocol {p}"] = stored(evil, p)
            bodies[f"{name}, a bare pickle"] = pickle.dumps(evil)
            old = io.BytesIO()
            torch.save(evil, old, _use_new_zipfile_serialization=False)
            bodies[f"{name}, torch's old format"] = old.getvalue()
            for path in parts(content):
                if draw.random() < share:
                    bodies[f"{name} at {'.'.join(map(str, path))}"] = stored(put(content, path, evil))
            for what, body in bodies.items():
                LAST.write_bytes(body)
                fire(tally, what, TEST, RESUME)
    return [tally]


# -- wrong values ----------------------------------------------------------------------------------------------------------

LEAVES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**53 - 1,
    2**63 - 1,
    10**30,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../x",
    "\x1b]0;x\x07",
    "${oc.env:HOME}",
    "x" * 100_000,
    [],
    {},
    [None],
    {"a": {"b": []}},
    [[[[]]]],
]
TENSORS: list[Callable[[Tensor], Any]] = [
    lambda p: p.new_zeros(()),
    lambda p: p.new_zeros(0),
    lambda p: p.new_zeros(0, 10**9),
    lambda p: p.new_zeros(*p.shape, 1),
    lambda p: p.new_zeros(*(n + 1 for n in p.shape)),
    lambda p: p.clone().reshape(-1),
    lambda p: p.t().contiguous() if p.dim() == 2 else p.unsqueeze(0).clone(),
    lambda p: p.to(torch.float64) if p.dtype != torch.float64 else p.to(torch.float32),
    lambda p: p.to(torch.int64) if p.dtype != torch.int64 else p.to(torch.int32),
    lambda p: p.to(torch.complex64),
    lambda p: p.to(torch.bool),
    lambda p: torch.zeros_like(p),
    lambda p: (
        torch.full_like(p, float("nan")) if p.is_floating_point() else torch.full_like(p, -1 if p.dtype.is_signed else 255)
    ),
    lambda p: p.clone().to_sparse() if p.dim() else None,
    lambda p: p.new_zeros(1).expand(10**9),
    lambda p: torch.nn.Parameter(p.float()),
    lambda p: torch.empty(4, device="meta"),
    lambda p: p.tolist(),
]


def values(folder: Path, share: float = 1.0, seed: int = 0) -> list[Tally]:
    """Replace every leaf of a content by each of the wrong values, or leave it out; then read and resume the file."""
    leaf = Tally(f"each value of a checkpoint replaced by each of {len(LEAVES)} wrong ones, or left out", HARMLESS)
    shapes = Tally(f"each tensor replaced by each of {len(TENSORS)} others: shapes, dtypes, strides, kinds", HARMLESS)
    draw = random.Random(seed)
    with inside(folder), patch.object(os, "fsync", lambda handle: None):  # thousands of runs
        content = prepare()
        for path in [p for p in parts(content) if p]:
            value = content
            for key in path:
                value = value[key]
            wrong = [(shapes, t) for t in TENSORS] if isinstance(value, Tensor) else []
            wrong += [(leaf, v) for v in LEAVES] if not isinstance(value, Tensor) or draw.random() < 0.2 else []
            for tally, what in [*wrong, (leaf, "left out")]:
                if draw.random() >= share:
                    continue
                spoilt = changed(content, path, what(value) if callable(what) else what, leave_out=what == "left out")
                LAST.write_bytes(stored(spoilt))
                words = "another tensor" if callable(what) else repr(what)[:30]
                fire(tally, f"{'.'.join(map(str, path))} = {words}", TEST, RESUME, SHOW, codes=(0, 2))
    return [leaf, shapes]


def changed(content: Any, path: tuple[Any, ...], value: Any, leave_out: bool) -> Any:
    if not leave_out:
        return put(content, path, value)
    whole = copy.deepcopy(content)
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    if isinstance(holder, tuple):
        return put(content, path[:-1], list(holder[:-1]))
    del holder[path[-1]]
    return whole


# -- bombs -----------------------------------------------------------------------------------------------------------------


def bombs(folder: Path, every: int = 1) -> list[Tally]:
    """Load files that claim, unfold to, or compute more than they contain."""
    tally = Tally("bombs: files that claim, unfold to or compute more than they contain", REFUSED)
    with inside(folder):
        content = prepare()
        data = LAST.read_bytes()
        for name, make in list(BOMBS.items())[::every]:
            body = make(content, data)
            for other in LAST.parent.glob("*"):
                other.unlink()
            if isinstance(body, int):
                with open(LAST, "wb") as file:
                    file.write(data)
                    file.truncate(body)  # sparse
            else:
                LAST.write_bytes(body)
            codes = (0, 2) if name in FINE else (2,)
            fire(tally, name, TEST, RESUME, ("fit", "--resume", "run"), SHOW, VERIFY, codes=codes)
            fresh()
    return [tally]


def with_part(**more: Any) -> Callable[[dict[str, Any], bytes], bytes]:
    return lambda content, data: stored({**content, "callbacks": {**content["callbacks"], "x": more}})


def nested(n: int) -> bytes:
    return b"\x80\x02" + b"]" * n + b"a" * (n - 1) + b"."


def doubling(n: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(n):
        value = [value, value]
    return value


def ring() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def called(name: str, argument: bytes) -> bytes:
    """Return a pickle of `name(argument)`, with a name that weights-only loads allow."""
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + argument + b"\x85R."


def colliding(n: int) -> bytes:
    """Return the pickle of a mapping whose n keys have the same hash: tuples of -1 and -2, whose hashes are equal."""
    keys = []
    for i in range(n):
        bits = [b"J\xff\xff\xff\xff" if i >> b & 1 else b"J\xfe\xff\xff\xff" for b in range(18)]
        keys.append(b"(" + b"".join(bits) + b"tK\x01")
    return b"\x80\x02}(" + b"".join(keys) + b"u."


def claims(data: bytes, numel: int, dtype: str = "FloatStorage") -> bytes:
    """Return a tensor whose storage claims `numel` elements, with an entry of a few bytes."""
    body = (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\n"
        + dtype.encode()
        + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu\x8a\x08"
        + struct.pack("<q", numel)
        + b"tQK\x00\x8a\x08"
        + struct.pack("<q", numel)
        + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
    )
    return pickled(data, body)


def overlapping(data: bytes) -> bytes:
    """Return an archive with a thousand directory entries of the same megabyte."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
        for i in range(1000):
            again = copy.copy(archive.filelist[0])
            again.filename = f"archive/data/{i}"
            archive.filelist.append(again)
    return sealed(out.getvalue())


SCHEDULE = ("callbacks", "lr_scheduler")


def long_run(content: dict[str, Any]) -> bytes:
    """Return consistent counters of a very long run with the state of another schedule, which it may have to catch up with."""
    state = {**content["state"], "epoch": 10**12, "step": 4 * 10**12}
    return earlier_schedule({**content, "state": state}, "StepLR", {"last_epoch": 10**12})


def earlier_schedule(content: dict[str, Any], name: str, progress: dict[str, Any]) -> bytes:
    """Return a content with the state of a schedule as earlier releases saved it, which stepped torch's schedulers."""
    state = {"schedule": f"(('{name}', {{}}), 'epoch')", "monitor": "min val/loss", "advanced": 10**12}
    groups = [[{"lr": 0.1, "initial_lr": 0.1}]]
    return stored(put(content, SCHEDULE, {**state, "progress": [progress], "groups": groups}))


BOMBS: dict[str, Callable[[dict[str, Any], bytes], bytes | int]] = {
    "deflated 300 MB": lambda c, d: rezipped(
        d, lambda n, b: [(n, bytes(300 << 20) if n.endswith("data/0") else b)], zipfile.ZIP_DEFLATED
    ),
    "bzip2": lambda c, d: rezipped(d, lambda n, b: [(n, b)], zipfile.ZIP_BZIP2),
    "a thousand entries at one place": lambda c, d: overlapping(d),
    "every entry twice": lambda c, d: rezipped(d, lambda n, b: [(n, b), (n.upper(), b)]),
    "a sparse file of 1 TB": lambda c, d: 1 << 40,
    "a sparse file of 3 GB": lambda c, d: 3 << 30,
    "a stride of 0": lambda c, d: stored({**c, "model": {"x": torch.zeros(1).expand(10**9)}}),
    "1000 strides of 0": lambda c, d: stored({**c, "model": {str(i): torch.zeros(1).expand(10**9) for i in range(1000)}}),
    "1000 views of one storage": lambda c, d: stored({**c, "model": dict.fromkeys(map(str, range(1000)), torch.zeros(10**6))}),
    "a storage that claims 256 kB": lambda c, d: claims(d, 1 << 16),
    "a storage that claims 8 GB": lambda c, d: claims(d, 1 << 31),
    "a storage that claims 2^63 bytes": lambda c, d: claims(d, (1 << 63) - 1, "ByteStorage"),
    "a storage that claims -1": lambda c, d: claims(d, -1),
    "a storage of the other byte order": lambda c, d: rezipped(
        claims(d, 1 << 20), lambda n, b: [(n, b"big" if n.endswith("byteorder") else b)]
    ),
    "bytearray(3e9)": lambda c, d: pickled(d, called("builtins bytearray", b"\x8a\x05" + (3 * 10**9).to_bytes(5, "little"))),
    "torch.Size of 1e6": lambda c, d: pickled(d, called("torch Size", b"(" + b"K\x01" * 10**6 + b"t")),
    "a number of a million digits": lambda c, d: pickled(
        d, b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b"."
    ),
    "a number in decimal digits": lambda c, d: pickled(d, b"L" + b"9" * 10**6 + b"L\n."),
    "50,000 keys of one hash": lambda c, d: pickled(d, colliding(50_000)),
    "2^60 lists": with_part(a=doubling(60)),
    "a list in itself": with_part(a=ring()),
    "400 lists deep": lambda c, d: pickled(d, nested(400)),
    "a million lists deep": lambda c, d: pickled(d, nested(10**6)),
    "a million lists": lambda c, d: pickled(d, b"\x80\x02](" + b"]" * 10**6 + b"e."),
    "a memo of 2^31": lambda c, d: pickled(d, b"\x80\x02}r\xff\xff\xff\x7f."),
    "an empty pickle": lambda c, d: pickled(d, b""),
    "a pickle without an end": lambda c, d: pickled(d, b"\x80\x02}"),
    "a pickle that stops early": lambda c, d: pickled(d, b"."),
    "a pickle that pops nothing": lambda c, d: pickled(d, b"\x80\x020000."),
    "a persistent id of text": lambda c, d: pickled(d, b"Pstorage\n."),
    "a persistent id of a list": lambda c, d: pickled(d, b"\x80\x02]Q."),
    "a key of NaN": lambda c, d: stored({**c, "metrics": {float("nan"): [0.0]}}),
    "a TorchScript archive": lambda c, d: rezipped(
        d, lambda n, b: [(n, b), (n.replace("/version", "/constants.pkl"), b)][: 1 + n.endswith("/version")]
    ),
    "no pickle": lambda c, d: rezipped(d, lambda n, b: [] if n.endswith("data.pkl") else [(n, b)]),
    "paths in names": lambda c, d: rezipped(d, lambda n, b: [(f"../../{n}", b)]),
    "a run of 10^12 epochs under another schedule": lambda c, d: long_run(c),
    "a run of 10^12 epochs in 8 steps": lambda c, d: stored({**c, "state": {**c["state"], "epoch": 10**12}}),
    "a run of 0 epochs in 10^12 steps": lambda c, d: stored({**c, "state": {**c["state"], "epoch": 0, "step": 10**12}}),
    "a schedule of 10^12 epochs in a run of 2": lambda c, d: earlier_schedule(c, "StepLR", {"last_epoch": 10**12}),
    "a schedule of 10^12 bad epochs in a run of 2": lambda c, d: earlier_schedule(
        c, "ReduceLROnPlateau", {"best": 0.1, "num_bad_epochs": 10**12, "cooldown_counter": 10**12}
    ),
    "a configuration of 1 MiB": lambda c, d: stored({**c, "config": "a: " + "[" * (1 << 20)}),
    "a configuration of 900 kB of keys": lambda c, d: stored({**c, "config": "".join(f"k{i}: 1\n" for i in range(90_000))}),
    "a configuration that unfolds": lambda c, d: stored({**c, "config": c["config"] + UNFOLDING}),
    "a configuration that merges": lambda c, d: stored({**c, "config": c["config"] + MERGING}),
}
FINE = {name for name in BOMBS if name.startswith(("a configuration", "a run", "a schedule"))}  # `show` may accept these
UNFOLDING = "z: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"z{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGING = "m0: &m0 {x: 1}\n" + "".join(f"m{i + 1}: &m{i + 1}\n  <<: [*m{i}, *m{i}]\n" for i in range(26))
