"""Checkpoint files: written so that a crash leaves the old file or the new one, read so that an untrusted file does no harm.

A file is a `torch.save` archive of plain values. The ZIP archive's comment holds the SHA-256 of all bytes before it.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from trainkit.core.errors import UserError, UserErrors, memory_error_message
from trainkit.core.files import TEMPORARY, write
from trainkit.core.validation import short_repr

from .plain import check_plain, to_plain
from .safe_pickle import MAX_OPCODES, check_pickle, opcodes
from .schema import FORMAT, check_types

LAST, BEST, FINAL = "last.pt", "best.pt", "final.pt"  # in the folder checkpoints of a run
BEFORE_NAN = "before_nan.pt"  # in the run's folder itself: a resume uses it only if it is named
CHECKSUM_PREFIX = b"trainkit sha256 "
COMMENT_BYTES = len(CHECKSUM_PREFIX) + 64
ZIP_START = b"PK\x03\x04"


def dump(content: dict[str, Any]) -> bytes:
    """Return the bytes of a checkpoint file. Equal contents give equal bytes."""
    buffer = io.BytesIO()
    _stream(content, buffer)
    return buffer.getvalue()


def save(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path`. The old file stays until the new one is complete on the disk.

    The bytes go to the disk as they are produced. A tensor is copied only if it is a view of a larger memory or not on the CPU.
    Raises UserError naming path and cause.
    """
    write(lambda file: _stream(content, file), path)


class _Sealed:
    """The file object for torch.save: passes the bytes on and hashes them. `close` adds the SHA-256 as the archive's comment.

    The archive's last 22 bytes hold the length of the comment, so they are held back until `close`. An error is held back too:
    torch would continue to write, and raise an error of its own.
    """

    END, BLOCK = 22, 1 << 20

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.held = file, hashlib.sha256(), bytearray()
        self.error: BaseException | None = None

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                if len(data) > self.BLOCK:  # not copied
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
        """Do nothing: torch.save requires the method, and the file is flushed once it is complete."""

    def close(self) -> None:
        if self.error is not None:
            raise self.error
        if self.held[-self.END :][:4] != b"PK\x05\x06" or self.held[-2:] != b"\0\0":
            raise AssertionError("torch.save no longer ends its archive with an end-of-directory record of 22 bytes")
        self.held[-2:] = struct.pack("<H", COMMENT_BYTES)
        self._emit(self.held)
        self.file.write(CHECKSUM_PREFIX + self.hash.hexdigest().encode())

    def _emit(self, data: bytearray | memoryview) -> None:
        self.hash.update(data)
        self.file.write(data)


def _stream(content: dict[str, Any], file: IO[bytes]) -> None:
    """Write the bytes of a checkpoint file as they are produced."""
    content = to_plain(content, copy=False)
    if (n := opcodes(content)) > MAX_OPCODES:
        fix = "use fewer replicas or columns, or keep long lists of numbers as tensors"
        raise UserError(f"checkpoint: it would hold {n:,} pickle opcodes, a file can hold {MAX_OPCODES:,}; {fix}")
    sealed = _Sealed(file)
    torch.save(content, sealed)  # type: ignore[arg-type]  # torch.save calls only write and flush
    sealed.close()


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of `folder`, sorted.

    Temporary files are left out even if they are complete, since files that they list may be missing.
    """
    return sorted(path for path in folder.glob("*.pt") if not path.name.startswith(TEMPORARY))


def load(path: Path, passed: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return the content of a checkpoint file. Nothing in the file is executed.

    The checks are CHECKS, in this order; `passed` is called after each.
    Raises UserError for a file that is not a complete, plain checkpoint.
    """
    file = _Unchecked(path)
    try:
        for check in _CHECKS.values():
            check(file)
            passed()
    except OSError as error:
        raise Unreadable(f"{file}: cannot be read, {error.strerror}") from error
    except Exception as error:
        if not _out_of_memory(error):
            raise
        raise Unreadable(f"{file}: {path.stat().st_size:,} bytes do not fit into memory") from error
    return file.content


def _out_of_memory(error: Exception) -> bool:
    """Return whether an error means too little memory. An error that quotes the file does not count."""
    return isinstance(error, (MemoryError, RuntimeError)) and memory_error_message(error) is not None


class Unreadable(UserError):
    """A checkpoint that may be valid but cannot be read now, because a disk fails or memory is short."""


class _Unchecked:
    """A file that may be anything. Each check relies on the ones before it, and sets what the next ones read."""

    data: bytes
    archive: zipfile.ZipFile
    content: Any

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"checkpoint {self.path}"


FIX = "use another checkpoint of the run"


def _check_readable(file: _Unchecked) -> None:
    if not file.path.is_file():
        raise UserError(f"{file}: is not a file; give a .pt file or a run's folder")
    file.data = _bytes(file.path)


def _check_first_bytes(file: _Unchecked) -> None:
    if (head := file.data[:4]) != ZIP_START:
        raise UserError(f"{file}: is not a checkpoint ({len(file.data)} bytes, begins with {head!r}); {FIX}")


def _check_sizes(file: _Unchecked) -> None:
    with _damage(file):
        file.archive = zipfile.ZipFile(io.BytesIO(file.data))
    entries = file.archive.infolist()
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > len(file.data):
        raise UserError(f"{file}: its entries are compressed or overlap, which trainkit never writes; refused")


def _check_checksum_is_there(file: _Unchecked) -> None:
    comment = file.archive.comment
    if len(comment) != COMMENT_BYTES or not comment.startswith(CHECKSUM_PREFIX):
        raise UserError(f"{file}: has no trainkit checksum: damaged, cut short, or not written by trainkit; {FIX}")


def _check_crc(file: _Unchecked) -> None:
    with _damage(file):
        bad = file.archive.testzip()
    if bad is not None:
        raise UserError(f"{file}: damaged, the CRC of {bad} differs; {FIX}")


def _check_sha256(file: _Unchecked) -> None:
    if hashlib.sha256(memoryview(file.data)[:-COMMENT_BYTES]).hexdigest().encode() != file.data[-64:]:
        raise UserError(f"{file}: damaged, its SHA-256 differs; {FIX}")


def _check_pickle(file: _Unchecked) -> None:
    with _damage(file):
        entries = file.archive.infolist()
        folder = f"{entries[0].filename.partition('/')[0]}/"  # as torch determines it
        held = {e.filename.removeprefix(f"{folder}data/"): e.file_size for e in entries}
        unique = len({e.filename.lower() for e in entries}) == len(entries)
        pickle = file.archive.read(f"{folder}data.pkl") if unique else b""
    try:
        check_pickle(pickle, held)
        file.content = torch.load(io.BytesIO(file.data), weights_only=True, map_location="cpu")
    except Exception as error:
        if _out_of_memory(error):
            raise
        raise UserError(f"{file}: holds something other than plain values and tensors; not loaded") from error


def _check_format(file: _Unchecked) -> None:
    found = file.content.get("format", "missing") if type(file.content) is dict else file.content
    if type(found) is not int or found != FORMAT:
        raise UserError(
            f"{file}: format {short_repr(found)}, this trainkit reads format {FORMAT}; use the version that wrote it"
        )


def _check_tensors(file: _Unchecked) -> None:
    with _complaints(file):
        check_plain(file.content, "", set())


def _check_entries(file: _Unchecked) -> None:
    with _complaints(file):
        check_types(file.content)


_CHECKS: dict[str, Callable[[_Unchecked], None]] = {
    "the file exists and can be read": _check_readable,
    "its first bytes are those of a ZIP archive": _check_first_bytes,
    "its entries are uncompressed and together no larger than the file": _check_sizes,
    "it ends in a trainkit checksum": _check_checksum_is_there,
    "the CRC of each entry is right": _check_crc,
    "the SHA-256 of all bytes before the checksum is right": _check_sha256,
    "it holds only plain values and tensors (weights-only load onto the CPU)": _check_pickle,
    f"its format is {FORMAT}": _check_format,
    "every tensor is as large as its bytes in the file; none occurs at two places": _check_tensors,
    "every entry is present, has its type and agrees with the others": _check_entries,
}
CHECKS = tuple(_CHECKS)  # of `load`, in order


@contextmanager
def _damage(file: _Unchecked) -> Iterator[None]:
    """Turn the exceptions of zipfile, which raises many kinds for damaged archives, into a UserError."""
    try:
        yield
    except Exception as error:
        if _out_of_memory(error):
            raise
        raise UserError(f"{file}: damaged or cut short ({error}); {FIX}") from error


@contextmanager
def _complaints(file: _Unchecked) -> Iterator[None]:
    """Name the file in each line of a UserError, of which MAX_COMPLAINTS are kept."""
    try:
        yield
    except RecursionError:
        raise UserError(f"{file}: nested too deep; {FIX}") from None
    except UserError as error:
        lines = [*str(error).split("\n")[:MAX_COMPLAINTS], f"refused; {FIX}"]
        raise UserErrors(f"{file}: {line}" for line in lines) from None


def _bytes(path: Path) -> bytes:
    """Return the file's bytes; if a large file does not begin and end as a checkpoint does, only its first and last bytes."""
    with open(path, "rb") as file:
        head = file.read(4)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - COMMENT_BYTES))
        tail = file.read(COMMENT_BYTES)
        if size > PEEK_BYTES and (head != ZIP_START or tail[: len(CHECKSUM_PREFIX)] != CHECKSUM_PREFIX):
            return head + tail
        file.seek(0)
        return file.read()


PEEK_BYTES = 1 << 20  # of larger files, the two ends are checked before the rest is read
MAX_COMPLAINTS = 10  # printed for one file


def load_run(path: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Load a checkpoint file, or the newest valid one of a run's folder. Return path, content, and why others were skipped."""
    if path.is_dir():
        return load_latest(path / "checkpoints")
    return path, load(path), []


def load_latest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """Load last.pt, or if it is not valid, the valid checkpoint with the most steps.

    Return its path, its content, and why others were skipped. A file with more steps than last.pt is from an incomplete save
    and may list files that were never written.
    Raises UserError if no checkpoint is valid, since the run must not silently start again. Raises Unreadable if one cannot be
    read now, since the next save would replace it.
    """
    best: tuple[int, Path, dict[str, Any]] | None = None
    skipped: list[str] = []
    for path in sorted(list_checkpoints(folder), key=lambda path: path.name != LAST):
        try:
            if path.is_symlink():
                raise UserError(f"checkpoint {path}: is a link and could lead elsewhere; give its target")
            content = load(path)
        except Unreadable:
            raise
        except UserError as error:
            skipped.append(str(error))
            continue
        step = content["state"]["step"]
        if best is None or step > best[0]:
            best = (step, path, content)
        if path.name == LAST:
            break
    if best is None:
        why = "\n".join(skipped) or f"{folder} has no .pt file"
        raise UserError(f"resume: no valid checkpoint in {folder}; start a new run, or name another folder\n{why}")
    return best[1], best[2], skipped
