"""Checkpoint files: written so that a crash leaves the old file or the new one, read so that a stranger's file can do no harm.

A file is what `torch.save` makes of plain values, with the SHA-256 of everything before it in the ZIP archive's comment.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import struct
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from .errors import UserError, UserErrors, cause, shortage
from .folder import kind_of
from .pattern import COUNT, Either, shown, unlike
from .pickled import MOST as MOST_OPCODES
from .pickled import inspect, opcodes

FORMAT = 2
MARK = b"trainkit sha256 "
COMMENT = len(MARK) + 64
TEMPORARY = ".tmp-"
_PLAIN = (str, int, float, bool, type(None))


def dump(content: dict[str, Any]) -> bytes:
    """The bytes of a file. Equal contents give equal bytes."""
    buffer = io.BytesIO()
    _stream(content, buffer)
    return buffer.getvalue()


def save(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path`: the old file stays until the new one is on the disk whole.

    The bytes go to the disk as they are made; a tensor is copied only where it is a view of a larger memory, or not on the CPU.
    Raises UserError naming path and cause.
    """
    write(lambda file: _stream(content, file), path)


def write(data: bytes | Callable[[IO[bytes]], object], path: Path) -> None:
    """Replace `path` by `data`, or by what it writes into the file it is given, atomically and durably.

    On any error the old file is untouched and no temporary is left. Raises UserError naming path and cause.
    """
    check_target(path)
    temporary = path.with_name(f"{TEMPORARY}{os.urandom(8).hex()}-{path.name}")  # never one that a killed process has left
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            with os.fdopen(handle, "wb") as file:
                keep_mode(handle, path)
                file.write(data) if isinstance(data, bytes) else data(file)
                file.flush()
                os.fsync(file.fileno())  # never tried again: after a failure the pages may be gone
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"{path}: not saved, {cause(error)}; what was there before is kept") from error
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path}: not surely saved, its folder cannot be synced, {cause(error)}") from error


def check_target(path: Path) -> None:
    """Raise UserError where a link, pipe, device or folder is at `path`: a rename would replace it."""
    found = None
    with suppress(OSError):  # whatever is wrong, opening the temporary says so
        found = kind_of(path)
    if found not in (None, "a file"):
        raise UserError(f"{path}: not saved, there is {found}, not a regular file; remove it, or name another")


class _Sealed:
    """What torch.save writes to: passes the bytes on and hashes them; `close` puts the SHA-256 into the archive's comment.

    The archive's last 22 bytes, which say how long the comment is, wait for `close`. An error waits for it too: torch would
    write on, and raise one of its own.
    """

    END, BLOCK = 22, 1 << 20

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.held = file, hashlib.sha256(), bytearray()
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                if len(data) > self.BLOCK:  # passed on without a copy
                    self._emit(self.held)
                    self._emit(data[: -self.END])
                    self.held = bytearray(data[-self.END :])
                else:
                    self.held += data
                    if len(self.held) > self.BLOCK:
                        self._emit(self.held[: -self.END])
                        del self.held[: -self.END]
            except BaseException as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """torch.save asks for one; the file is flushed when it is whole."""

    def close(self) -> None:
        if self.error is not None:
            raise self.error
        if self.held[-self.END :][:4] != b"PK\x05\x06" or self.held[-2:] != b"\0\0":
            raise AssertionError("torch.save no longer ends its archive with an end-of-directory record of 22 bytes")
        self.held[-2:] = struct.pack("<H", COMMENT)
        self._emit(self.held)
        self.file.write(MARK + self.hash.hexdigest().encode())

    def _emit(self, data: bytearray | memoryview) -> None:
        self.hash.update(data)
        self.file.write(data)


def _stream(content: dict[str, Any], file: IO[bytes]) -> None:
    """Write the bytes of a file as they are made."""
    content = plain(content, copy=False)
    if (n := opcodes(content)) > MOST_OPCODES:
        cure = "use fewer replicas or columns, or keep long lists of numbers as tensors"
        raise UserError(f"checkpoint: it would hold {n:,} parts, a file can hold {MOST_OPCODES:,}; {cure}")
    sealed = _Sealed(file)
    torch.save(content, sealed)  # type: ignore[arg-type]  # it asks for write and flush alone
    sealed.close()


def keep_mode(handle: int, path: Path) -> None:
    """Give an open file the permissions of `path`, which it will replace, if that is there."""
    with suppress(FileNotFoundError):
        os.fchmod(handle, stat.S_IMODE(path.stat().st_mode))


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def saved(folder: Path) -> list[Path]:
    """The checkpoints of `folder`; a temporary is none, be it whole: files that it lists may be missing."""
    return sorted(path for path in folder.glob("*.pt") if not path.name.startswith(TEMPORARY))


def sweep(folder: Path) -> None:
    """Delete the temporaries that a killed run left in `folder`; its lock is held."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if re.fullmatch(rf"{re.escape(TEMPORARY)}[0-9a-f]+-.+", path.name, re.DOTALL) and kind_of(path) == "a file":
            delete(path)


def delete(path: Path) -> None:
    """Delete a file, if it is there. Raises UserError naming path and cause."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be deleted, {cause(error)}") from error


CHECKS = (  # of `load`, in their order
    "a file, and it can be read",
    "its first bytes are those of a ZIP archive",
    "its entries are stored, and no larger than the file",
    "it ends in a trainkit checksum",
    "CRC of each entry",
    "SHA-256 of all before the checksum",
    "plain values and tensors alone: a weights-only load onto the CPU",
    f"format {FORMAT}",
    "nothing claims more than the file holds, or stands at two places",
    "each part is there, of its type, and agrees with the others",
)


def load(path: Path, passed: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The content of a checkpoint file. Raises UserError for whatever is not a whole, plain checkpoint; nothing in it is run.

    The checks are CHECKS, in this order; `passed` is called after each.
    """
    try:
        return _load(path, passed)
    except OSError as error:
        raise Unread(f"checkpoint {path}: cannot be read, {error.strerror}") from error
    except Exception as error:
        if not _short(error):
            raise
        raise Unread(f"checkpoint {path}: {path.stat().st_size:,} bytes do not fit into memory") from error


def _short(error: Exception) -> bool:
    """Whether an error means too little memory. An error that quotes the file does not count."""
    return isinstance(error, (MemoryError, RuntimeError)) and shortage(error) is not None


class Unread(UserError):
    """A checkpoint that may be whole and cannot be read here and now: a disk that fails, too little memory."""


def _load(path: Path, passed: Callable[[], None]) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"checkpoint {path}: is not a file; name a .pt file or a run's folder")
    data = _bytes(path)
    passed()
    cure = "take another checkpoint of the run"
    if data[:4] != b"PK\x03\x04":
        raise UserError(f"checkpoint {path}: no checkpoint ({len(data)} bytes, begins with {data[:4]!r}); {cure}")
    passed()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(data):
                raise UserError(
                    f"checkpoint {path}: its entries are compressed or overlap, as trainkit never writes them; refused"
                )
            passed()
            mark = archive.comment[: len(MARK)]
            if len(archive.comment) != COMMENT or mark != MARK:
                raise UserError(
                    f"checkpoint {path}: has no trainkit checksum: damaged, cut short, or none of trainkit's; {cure}"
                )
            passed()
            if (bad := archive.testzip()) is not None:
                raise UserError(f"checkpoint {path}: damaged, the CRC of {bad} differs; {cure}")
            passed()
            if hashlib.sha256(memoryview(data)[:-COMMENT]).hexdigest().encode() != data[-64:]:
                raise UserError(f"checkpoint {path}: damaged, its SHA-256 differs; {cure}")
            passed()
            folder = f"{entries[0].filename.partition('/')[0]}/"  # as torch finds it
            held = {e.filename.removeprefix(f"{folder}data/"): e.file_size for e in entries}
            pickle = archive.read(f"{folder}data.pkl") if len({e.filename.lower() for e in entries}) == len(entries) else b""
    except UserError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged archives
        if _short(error):
            raise
        raise UserError(f"checkpoint {path}: damaged or cut short ({error}); {cure}") from error
    try:
        inspect(pickle, held)
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
        if _short(error):
            raise
        raise UserError(f"checkpoint {path}: holds something else than plain values and tensors; refused unread") from error
    passed()
    found = content.get("format", "missing") if type(content) is dict else content
    if type(found) is not int or found != FORMAT:
        raise UserError(
            f"checkpoint {path}: format {shown(found)}, this trainkit reads format {FORMAT}; use the trainkit that wrote it"
        )
    passed()
    try:
        check_plain(content, "", set())
        passed()
        check_types(content)
        passed()
    except RecursionError:
        raise UserError(f"checkpoint {path}: nested too deep; {cure}") from None
    except UserError as error:
        lines = [*str(error).split("\n")[:MOST], f"refused; {cure}"]
        raise UserErrors(f"checkpoint {path}: {line}" for line in lines) from None
    return content


def _bytes(path: Path) -> bytes:
    """What the file holds; of one that does not begin as a checkpoint, or does not end as one, only its ends."""
    with open(path, "rb") as file:
        head = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - COMMENT))
        tail = file.read(COMMENT)
        if size > PEEKED and (head != b"PK\x03\x04" or tail[: len(MARK)] != MARK):
            return head + tail
        file.seek(0)
        return file.read()


PEEKED = 1 << 20  # bytes from which on a file's ends are looked at before it is read
MOST = 10  # complaints about one file
MOST_DIMENSIONS = 64  # that torch computes with


def check_plain(value: Any, place: str, seen: set[int]) -> None:
    """Refuse what `plain` would not have let through: other types, tensors that are not their whole memory, shared lists.

    torch crashes on a random state that begins inside its memory. A few hundred bytes of lists that share lists would take
    hours to walk; a list that contains itself would never end.
    """
    kind = type(value)
    if kind is Tensor:
        if value.dim() > MOST_DIMENSIONS:
            raise UserError(f"{place}: a tensor of {value.dim()} dimensions; needs {MOST_DIMENSIONS} or fewer")
        claimed = value.numel() * value.element_size()
        held = value.untyped_storage().nbytes() if value.layout == torch.strided and value.device.type == "cpu" else -1
        if claimed != held or value.requires_grad or not value.is_contiguous():
            raise UserError(f"{place}: {shown(value)} that the file does not hold as such")
        if held and (memory := value.untyped_storage().data_ptr()) in seen:
            raise UserError(f"{place}: stands at several places")
        seen |= {memory} if held else set()
    elif kind in (dict, list, tuple):
        if id(value) in seen and value:
            raise UserError(f"{place}: stands at several places")
        seen.add(id(value))
        for k, v in value.items() if kind is dict else enumerate(value):
            if type(k) not in (str, int):
                raise UserError(f"{place}: key {shown(k)}; needs text or a whole number")
            if type(v) in (str, float, bool):
                continue  # most values of a long list, without the words for their place
            check_plain(v, f"{place}.{shown(k, '')}" if place else shown(k, ""), seen)
    elif kind not in _PLAIN or (kind is int and value.bit_length() > 63):
        raise UserError(f"{place}: {shown(value)} is no plain value")


CONTENT: dict[str, Any] = {
    "format": FORMAT,
    "config": str,
    "state": {
        "epoch": COUNT,
        "batch": COUNT,
        "step": COUNT,
        "samples": [COUNT],
        "loss_sum": [float],
        "lr": [float],
        "pending": bool,
        "active": [bool],
        "first_nonfinite_epoch": Either(None, COUNT),
    },
    "model": {str: Tensor},
    "optimizer": {str: Any},  # the optimizer itself says what it needs
    "gradient": Either(None, Tensor),
    "normalizer": {"mean": torch.float64, "std": torch.float64, "fill": Either(None, torch.float64)},
    "data": {
        "train": COUNT,
        "batch": COUNT,
        "classes": Either(None, [str]),
        "threshold": Either(None, float),
        "schema": {str: Any},
        "fingerprints": {str: str},
    },
    "callbacks": {str: {str: Any}},
    "rng": {
        "python": (int, torch.int64, Either(None, float)),
        "torch": torch.uint8,
        "passes": torch.uint8,  # a row a replica
    },
    "metrics": {str: [float]},
    "environment": {"versions": {str: str}, "threads": COUNT, "device": str, "dtype": str},
}


def check_types(content: dict[str, Any]) -> None:
    """Each part is there, of its type, and agrees with the others. Raises UserErrors."""
    pattern = dict(CONTENT)
    if isinstance(content.get("rng"), dict) and "cuda" in content["rng"]:
        pattern["rng"] = {**pattern["rng"], "cuda": [torch.uint8]}
    if isinstance(content.get("environment"), dict) and "mode" in content["environment"]:
        pattern["environment"] = {**pattern["environment"], "mode": Either("eager", "compile", "graph")}
    wrong = unlike(content, pattern, "content")
    if not wrong:
        state, data = content["state"], content["data"]
        replicas = len(state["active"])
        passes = content["rng"]["passes"]
        each = {f"state.{key}": state[key] for key in ("samples", "loss_sum", "lr")}
        each |= {"rng.passes": passes if passes.dim() == 2 else []}
        each |= {f"metrics.{shown(k, '')}": v for k, v in content["metrics"].items()}
        wrong += [f"{k}: {len(v)} values, state.active has {replicas}" for k, v in each.items() if len(v) != replicas]
        wrong += [
            f"model.{shown(k, '')}: {shown(v)}; needs floating numbers"
            for k, v in content["model"].items()
            if not v.is_floating_point()
        ]
        if not (replicas and data["train"] and data["batch"]):
            wrong.append(f"{replicas} replicas, data.train={data['train']}, data.batch={data['batch']}; each needs at least 1")
        mean, std = content["normalizer"]["mean"], content["normalizer"]["std"]
        if mean.shape != std.shape or not (mean.isfinite().all() and (std > 0).all() and std.isfinite().all()):
            wrong.append(f"normalizer: mean {shown(mean)}, std {shown(std)}; needs one shape, finite means, deviations above 0")
        taken, most = min(state["batch"] * data["batch"], data["train"]), max(state["samples"], default=0)
        if state["batch"] and data["train"] and data["batch"] and not 0 < most <= taken:  # less: a replica that had stopped
            wrong.append(f"state: {state['batch']} batches of {data['batch']} out of {data['train']} samples are not {most}")
        elif data["batch"] and state["batch"] > -(-data["train"] // data["batch"]):
            wrong.append(f"state.batch: {state['batch']}; an epoch has {-(-data['train'] // data['batch'])}")
        least = state["epoch"] + state["batch"]  # not more: the epochs behind may have had other batches
        if state["step"] < least or (state["epoch"] == 0 and state["step"] != least):
            bound = f"{'at least ' if state['epoch'] else ''}{least}"
            wrong.append(
                f"state.step: {state['step']}; needs {bound}, after {state['epoch']} epochs and {state['batch']} batches"
            )
    if wrong:
        raise UserErrors(line.removeprefix("content.").removeprefix("content: ") for line in wrong)


def newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """last.pt, or where it is not valid the valid checkpoint with the most steps: path, content, and why others were skipped.

    A file that is ahead of last.pt is of a save that did not come to its end, and may list files that were never written. None
    valid is an error: never a silent fresh start. So is one that cannot be read now: the next save would replace it.
    """
    best: tuple[int, Path, dict[str, Any]] | None = None
    skipped: list[str] = []
    for path in sorted(saved(folder), key=lambda path: path.name != "last.pt"):
        try:
            if path.is_symlink():
                raise UserError(f"checkpoint {path}: is a link and could lead elsewhere; name its target")
            content = load(path)
        except Unread:
            raise
        except UserError as error:
            skipped.append(str(error))
            continue
        step = content["state"]["step"]
        if best is None or step > best[0]:
            best = (step, path, content)
        if path.name == "last.pt":
            break
    if best is None:
        why = "\n".join(skipped) or f"{folder} has no .pt file"
        raise UserError(f"resume: no valid checkpoint in {folder}; start a new run, or name another folder\n{why}")
    return best[1], best[2], skipped


def plain(value: Any, place: str = "", copy: bool = True, seen: set[int] | None = None) -> Any:
    """A copy with contiguous CPU tensors that own their memory, refusing what a weights-only load would refuse.

    With `copy=False` a tensor that is such a one already is not copied, unless another in `value` has its memory (`seen`).
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        tensor = value.detach().to("cpu", copy=copy).contiguous()
        return tensor if copy else _own(tensor, seen)
    if isinstance(value, dict):
        return {_key(k, place): plain(v, f"{place}.{k}", copy, seen) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(v, f"{place}[{i}]", copy, seen) for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value) is str:
        return sys.intern(value)  # pickle writes equal texts once if they are one object: equal contents, equal bytes
    if type(value) in _PLAIN:
        return value
    stored = "str, int, float, bool, None, tensors, lists and dicts"
    raise UserError(f"checkpoint{place}: {type(value).__name__} cannot be stored; give {stored}")


def _own(tensor: Tensor, seen: set[int]) -> Tensor:
    """The tensor, or a copy of it where it is part of a larger memory, or of one that was seen."""
    memory = tensor.untyped_storage()
    if memory.nbytes() != tensor.nbytes or memory.data_ptr() in seen:
        return tensor.clone()
    if memory.nbytes():
        seen.add(memory.data_ptr())
    return tensor


def _key(key: Any, place: str) -> Any:
    if type(key) not in (str, int):
        raise UserError(f"checkpoint{place}: key {key!r}; needs a str or an int")
    return sys.intern(key) if isinstance(key, str) else key
