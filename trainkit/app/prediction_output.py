"""The output of predictions: a file is replaced atomically, a pipe or a device is written to."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from trainkit.core.errors import UserError, cause
from trainkit.core.files import check_writable, keep_mode, kind_of, sync_folder

MAX_HEADER_BYTES = 1 << 24


class Output:
    """`with Output(path) as out: out.write(data)`, any number of times.

    The constructor checks the path and changes nothing. The file (for a link, its target) may be missing, empty, or hold
    predictions, which `is_header` recognizes by its first line. A new file replaces it at the end of the `with` block; after an
    exception the old one remains. A pipe or a character device is opened here and written to; so is a descriptor of this
    process, /dev/stdout or /dev/fd/3.
    follow: with False, a link, a pipe or a device is refused, since the user did not give the path.
    Raises UserError naming path and cause.
    """

    def __init__(self, path: Path, is_header: Callable[[bytes], bool], follow: bool = True) -> None:
        self.path, self._handle, found = path, -1, None
        self._temporary: Path | None = None
        self.descriptor = descriptor(path) if follow else None  # a descriptor of this process, if the path is one
        try:
            if self.descriptor is not None:
                self._handle = os.dup(self.descriptor)
                return
            found = kind_of(path, follow)
            if follow and found in ("a pipe", "a device"):
                self._handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
                os.set_blocking(self._handle, True)
                return
            if found not in (None, "a file"):
                raise self._error(f"is {found}")
            self._target = Path(os.path.realpath(path)) if follow else path
            if found and not holds_predictions(self._target, is_header):
                raise self._error("holds something other than predictions")
            check_writable(self._target.parent)
        except OSError as error:
            if error.errno == errno.ENOENT and found is None:
                raise self._error(f"not saved, no folder {str(self._target.parent)!r}", "make it, or ") from error
            no_reader = error.errno == errno.ENXIO and found == "a pipe"
            raise self._error("is a pipe without a reader" if no_reader else f"not saved, {cause(error)}") from error

    def __enter__(self) -> Output:
        if self._handle < 0:
            # Another name than the temporaries of checkpoints, which a trainer deletes when it starts in the folder.
            self._temporary = self._target.with_name(f".predictions-{secrets.token_hex(8)}.part")
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._handle = os.open(self._temporary, flags, 0o644)
                keep_mode(self._handle, self._target)
            except OSError as error:
                self._temporary = None
                raise self._error(f"not saved, {cause(error)}") from error
        return self

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError as error:
            if self.descriptor is not None and error.errno == errno.EPIPE:
                raise  # the reader of stdout has closed it
            raise self._error(f"not saved, {cause(error)}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if self._temporary is not None and error is None:
                os.fsync(self._handle)
                os.replace(self._temporary, self._target)
                self._temporary = None
                sync_folder(self._target.parent)
        except OSError as failure:
            raise self._error(f"not saved, {cause(failure)}") from failure
        finally:
            os.close(self._handle)
            self._handle = -1
            if self._temporary is not None:
                with suppress(OSError):
                    os.unlink(self._temporary)

    def _error(self, why: str, fix: str = "") -> UserError:
        return UserError(f"{self.path}: {why}; {fix}choose another with --out")


def holds_predictions(path: Path, is_header: Callable[[bytes], bool]) -> bool:
    """Return whether a file is empty or begins with the header of predictions."""
    with open(path, "rb") as file:
        line = file.readline(MAX_HEADER_BYTES)
    return not line or is_header(line)


def descriptor(path: Path) -> int | None:
    """Return the N of /dev/fd/N or of a link to it, such as /dev/stdout; None for any other path."""
    for _ in range(40):  # the kernel follows 40 links or fewer
        if path.name.isdigit() and os.path.realpath(path.parent) in (f"/proc/{os.getpid()}/fd", "/dev/fd"):
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return None
