"""Checkpoint files: written so that a crash leaves the old file or the new one, read so that a stranger's file can do no harm.

A file is what `torch.save` makes of plain values, with the SHA-256 of everything before it in the ZIP archive's comment.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from pickletools import genops
from typing import Any

import torch
from torch import Tensor

from .errors import UserError, UserErrors, cause
from .pattern import COUNT, Either, shown, unlike
from .pickled import MOST as MOST_OPCODES
from .pickled import inspect

FORMAT = 1
MARK = b"trainkit sha256 "
COMMENT = len(MARK) + 64
TEMPORARY = ".tmp-"
_PLAIN = (str, int, float, bool, type(None))


def dump(content: dict[str, Any]) -> bytes:
    """The bytes of a file. Equal contents give equal bytes."""
    buffer = io.BytesIO()
    torch.save(plain(content), buffer)
    data = buffer.getvalue()
    if data[-22:-18] != b"PK\x05\x06" or data[-2:] != b"\0\0":
        raise AssertionError("torch.save no longer ends its archive with an end-of-directory record of 22 bytes")
    with zipfile.ZipFile(buffer) as archive:
        pickle = next(e for e in archive.infolist() if e.filename.endswith("/data.pkl"))
        if pickle.file_size > MOST_OPCODES and sum(1 for _ in genops(archive.read(pickle))) > MOST_OPCODES:
            raise UserError(f"checkpoint: over {MOST_OPCODES // 2:,} plain values; keep long lists of numbers as tensors")
    head = data[:-2] + struct.pack("<H", COMMENT)
    return head + MARK + hashlib.sha256(head).hexdigest().encode()


def save(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path`: the old file stays until the new one is on the disk whole.

    Raises UserError naming path and cause.
    """
    write(dump(content), path)


def write(data: bytes | Iterable[bytes], path: Path) -> None:
    """Replace `path` by `data`, whole or in pieces, atomically and durably; on any error the old file stays as it was."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            with os.fdopen(handle, "wb") as file:
                for piece in [data] if isinstance(data, bytes) else data:
                    file.write(piece)
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
        if not path.is_file():
            raise UserError(f"checkpoint {path}: is no file; name a .pt file or a run's folder")
        data = _bytes(path)
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot be read, {error.strerror}") from error
    except MemoryError as error:
        raise UserError(f"checkpoint {path}: {path.stat().st_size:,} bytes do not fit into memory") from error
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
            if hashlib.sha256(data[:-COMMENT]).hexdigest().encode() != data[-64:]:
                raise UserError(f"checkpoint {path}: damaged, its SHA-256 differs; {cure}")
            passed()
            folder = f"{entries[0].filename.partition('/')[0]}/"  # as torch finds it
            held = {e.filename.removeprefix(f"{folder}data/"): e.file_size for e in entries}
            pickle = archive.read(f"{folder}data.pkl") if len({e.filename.lower() for e in entries}) == len(entries) else b""
    except UserError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged archives
        raise UserError(f"checkpoint {path}: damaged or cut short ({error}); {cure}") from error
    try:
        inspect(pickle, held)
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
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


def check_plain(value: Any, place: str, seen: set[int]) -> None:
    """Refuse what `plain` would not have let through: other types, tensors that claim more than they hold, shared lists.

    A few hundred bytes of lists that share lists are a walk of hours, or of forever where one holds itself.
    """
    kind = type(value)
    if kind is Tensor:
        claimed = value.numel() * value.element_size()
        held = value.untyped_storage().nbytes() if value.layout == torch.strided and value.device.type == "cpu" else -1
        if claimed > held or value.requires_grad or not value.is_contiguous():
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
        "samples": COUNT,
        "loss_sum": [float],
        "lr": [float],
        "pending": bool,
        "active": [bool],
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
    "rng": {"python": (int, torch.int64, Either(None, float)), "torch": torch.uint8, "passes": [torch.uint8]},
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
        each = {"state.loss_sum": state["loss_sum"], "state.lr": state["lr"], "rng.passes": content["rng"]["passes"]}
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
        if (
            state["batch"]
            and data["train"]
            and data["batch"]
            and state["samples"] != min(state["batch"] * data["batch"], data["train"])
        ):
            wrong.append(
                f"state: {state['batch']} batches of {data['batch']} out of {data['train']} samples are not {state['samples']}"
            )
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
    valid is an error: never a silent fresh start.
    """
    best: tuple[tuple[bool, int], Path, dict[str, Any]] | None = None
    skipped: list[str] = []
    for path in saved(folder):
        try:
            if path.is_symlink():
                raise UserError(f"checkpoint {path}: is a link and could lead elsewhere; name its target")
            content = load(path)
        except UserError as error:
            skipped.append(str(error))
            continue
        rank = (path.name == "last.pt", content["state"]["step"])
        if best is None or rank > best[0]:
            best = (rank, path, content)
    if best is None:
        why = "\n".join(skipped) or f"{folder} has no .pt file"
        raise UserError(f"resume: no valid checkpoint in {folder}; start a new run, or name another folder\n{why}")
    return best[1], best[2], skipped


def plain(value: Any, place: str = "") -> Any:
    """A copy with contiguous CPU tensors that own their memory, refusing what a weights-only load would refuse."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {_key(k, place): plain(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(v, f"{place}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value) is str:
        return sys.intern(value)  # pickle writes equal texts once if they are one object: equal contents, equal bytes
    if type(value) in _PLAIN:
        return value
    stored = "str, int, float, bool, None, tensors, lists and dicts"
    raise UserError(f"checkpoint{place}: {type(value).__name__} cannot be stored; give {stored}")


def _key(key: Any, place: str) -> Any:
    if type(key) not in (str, int):
        raise UserError(f"checkpoint{place}: key {key!r}; needs a str or an int")
    return sys.intern(key) if isinstance(key, str) else key
