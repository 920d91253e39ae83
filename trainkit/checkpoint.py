"""Checkpoint files: written so that a crash leaves the old file or the new one, read so that a stranger's file can do no harm.

A file is what `torch.save` makes of plain values, with the SHA-256 of everything before it in the ZIP archive's comment.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import UserError

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
    head = data[:-2] + struct.pack("<H", COMMENT)
    return head + MARK + hashlib.sha256(head).hexdigest().encode()


def save(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path`: the old file stays until the new one is on the disk whole. Raises UserError naming path and cause."""
    write(dump(content), path)


def write(data: bytes, path: Path) -> None:
    """Replace `path` by `data`, atomically and durably; on any error the old file is untouched and no temporary is left."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # never tried again: after a failure the pages may be gone
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"checkpoint {path}: not saved, {error.strerror or error} ({_errno(error)}); the file before it is kept"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Delete the temporaries that a killed run left in `folder`; its lock is held."""
    for path in folder.glob(f"{TEMPORARY}*"):
        path.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file. Raises UserError for whatever is not a whole, plain checkpoint; nothing in it is run.

    In this order: first bytes, entries stored and no larger than the file, CRC of each entry, SHA-256, weights-only load onto
    the CPU, version, sizes, types.
    """
    try:
        if not path.is_file():
            raise UserError(f"checkpoint {path}: is no file; name a .pt file or a run's folder")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"checkpoint {path}: cannot be read, {error.strerror}") from error
    cure = "take another checkpoint of the run"
    if data[:4] != b"PK\x03\x04":
        raise UserError(f"checkpoint {path}: no checkpoint ({len(data)} bytes, begins with {data[:4]!r}); {cure}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(data):
                raise UserError(
                    f"checkpoint {path}: its entries are compressed or overlap, as trainkit never writes them; refused"
                )
            mark = archive.comment[: len(MARK)]
            if len(data) <= COMMENT or mark != MARK:
                raise UserError(
                    f"checkpoint {path}: has no trainkit checksum, so it was cut short or is no trainkit checkpoint; {cure}"
                )
            if (bad := archive.testzip()) is not None:
                raise UserError(f"checkpoint {path}: damaged, the CRC of {bad} differs; {cure}")
            if hashlib.sha256(data[:-COMMENT]).hexdigest().encode() != data[-64:]:
                raise UserError(f"checkpoint {path}: damaged, its SHA-256 differs; {cure}")
    except UserError:
        raise
    except Exception as error:  # zipfile raises half a dozen kinds on damaged archives
        raise UserError(f"checkpoint {path}: damaged or cut short ({error}); {cure}") from error
    try:
        content = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:
        raise UserError(f"checkpoint {path}: holds something else than plain values and tensors; refused unread") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"checkpoint {path}: format {found!r}, this trainkit reads format {FORMAT}; use the trainkit that wrote it"
        )
    for place, tensor in tensors(content):
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(f"checkpoint {path}: {place} claims {tensor.numel()} numbers that the file does not hold; refused")
    check_types(content, path)
    return content


REQUIRED: dict[str, type | tuple[type, ...]] = {
    "config": str,
    "state": dict,
    "model": dict,
    "optimizer": dict,
    "normalizer": dict,
    "data": dict,
    "callbacks": dict,
    "rng": dict,
    "metrics": dict,
    "environment": dict,
}


def check_types(content: dict[str, Any], path: Path) -> None:
    """Each part is there and of its type."""
    for key, kind in REQUIRED.items():
        if not isinstance(content.get(key), kind):
            raise UserError(
                f"checkpoint {path}: {key} is {type(content.get(key)).__name__}, needs {getattr(kind, '__name__', kind)}; refused"
            )
    for name, value in content["model"].items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise UserError(
                f"checkpoint {path}: model {name} is {getattr(value, 'dtype', type(value).__name__)}, needs floating numbers; refused"
            )


def tensors(value: Any, place: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in `value`, with its place."""
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, dict):
        for k, v in value.items():
            yield from tensors(v, f"{place}.{k}" if place else str(k))
    elif isinstance(value, (list, tuple)):
        for i, v in enumerate(value):
            yield from tensors(v, f"{place}[{i}]")


def newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The valid checkpoint of `folder` with the most steps: its path, its content, and why others were skipped.

    None valid is an error: never a silent fresh start.
    """
    found: list[tuple[int, float, Path, dict[str, Any]]] = []
    skipped: list[str] = []
    for path in sorted(folder.glob("*.pt")):
        try:
            content = load(path)
            found.append((int(content["state"]["step"]), path.name == "last.pt", path, content))
        except (UserError, KeyError, TypeError, ValueError) as error:
            skipped.append(str(error))
    if not found:
        why = "\n".join(skipped) or f"{folder} has no .pt file"
        raise UserError(f"resume: no valid checkpoint in {folder}; start a new run, or name another folder\n{why}")
    _, _, path, content = max(found, key=lambda f: f[:2])
    return path, content, skipped


def plain(value: Any, place: str = "") -> Any:
    """A copy with contiguous CPU tensors that own their memory, refusing what a weights-only load would refuse."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {_key(k, place): plain(v, f"{place}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(v, f"{place}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    if type(value) in _PLAIN:
        return value
    raise UserError(
        f"checkpoint{place}: {type(value).__name__} cannot be stored; give str, int, float, bool, None, tensors, lists and dicts"
    )


def _key(key: Any, place: str) -> Any:
    if type(key) not in (str, int):
        raise UserError(f"checkpoint{place}: key {key!r}; needs a str or an int")
    return key


def _errno(error: OSError) -> str:
    import errno

    return errno.errorcode.get(error.errno or 0, "?")
