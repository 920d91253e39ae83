"""A folder that one process at a time writes: it holds a marker file, which that process locks."""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .files import kind_of


def default_folder(name: str) -> Path:
    """Return `logs/<name>/<time>`. `Folder.begin` appends a number where two runs begin in one second."""
    return Path("logs") / (name.strip("-. ") or "run") / time.strftime("%Y-%m-%d_%H-%M-%S")


class Folder:
    """The folder `path`. `lock` and `begin` lock it, until `close`; only `begin` writes.

    numbered: if `path` exists when the folder is made, append a number to it. Runs whose folders are named by the time then
    have different folders, even if they begin in the same second.
    """

    kind = "folder"  # its name in messages
    worker = "another process"
    option = "--out"
    marker = ".trainkit"

    def __init__(self, path: Path, numbered: bool = False) -> None:
        self.path, self.numbered = path, numbered
        self._lock: int | None = None
        self._made: list[Path] = []  # what `begin` made: the marker, then folders from the innermost out

    @property
    def marked(self) -> bool:
        """Whether the marker exists, as a regular file."""
        return kind_of(self.path / self.marker) == "a file"

    def note(self) -> str:
        """Return what the marker says besides its purpose: lines of text, or nothing."""
        return ""

    def there(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that exist in the folder, of any type; for a name with `*`, all that match it.

        Raises UserError if the path is not a folder.
        """
        try:
            if not self.path.is_dir():
                if os.path.lexists(self.path):
                    raise NotADirectoryError(0, "Not a directory")
                return []
            found = []
            for name in names:
                if "*" in name:
                    found += sorted(fnmatch.filter(os.listdir(self.path), name))
                elif os.path.lexists(self.path / name):
                    found.append(name)
            return found
        except OSError as error:
            raise self.refusal(error) from error

    def lock(self) -> None:
        """Lock a folder that has the marker. Writes nothing. Raises UserError if it is not writable or already locked."""
        if self._lock is not None:
            return
        try:
            if not self.marked:  # checked first, since opening a device can have side effects
                raise FileNotFoundError(errno.ENOENT, f"there is no file {self.marker}")
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._lock_marker(os.open(self.path / self.marker, flags))
        except OSError as error:
            raise self.refusal(error) from error

    def begin(self) -> None:
        """Make the folder and its marker, if they do not exist, and lock it.

        Raises UserError if that fails, after removing what was made.
        """
        if self._lock is not None:
            return
        try:
            self._make()
            marker = self.path / self.marker
            try:
                handle = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                self.lock()
                return
            self._lock_marker(handle)
            self._made.insert(0, marker)  # not earlier: another process that locks it first owns it
            text = f"{self.kind} of trainkit; {self.worker} cannot write here while this file is locked\n"
            os.write(handle, (text + self.note()).encode())
        except BaseException as error:
            self.undo()
            if isinstance(error, OSError):
                raise self.refusal(error) from error
            raise

    def undo(self) -> None:
        """Remove what `begin` made, folders only if they are empty, and unlock."""
        for path in self._made:
            with suppress(OSError):
                path.unlink() if path.name == self.marker else path.rmdir()
        self.close()

    def close(self) -> None:
        """Unlock."""
        self._made = []  # a later fit with this object must not remove these
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def refusal(self, error: OSError) -> UserError:
        """Return the error for a folder that cannot be used."""
        return UserError(
            f"{self.kind} {self.path}: cannot be made or written ({error.strerror}); choose another with {self.option}"
        )

    def _make(self) -> None:
        outer = [p for p in self.path.parents if not p.exists()]
        base, k = self.path, 2
        while True:
            try:
                self._made = outer
                self.path.mkdir(parents=True)
                self._made = [self.path, *outer]
                return
            except FileExistsError:
                if not self.numbered:
                    if self.path.is_dir():
                        return
                    raise
                self.path, k = base.with_name(f"{base.name}_{k}"), k + 1

    def _lock_marker(self, handle: int) -> None:
        """Lock the open marker, or close it and raise."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(handle).st_nlink:  # the process that held the lock removed the file meanwhile
                raise BlockingIOError
        except BlockingIOError:
            os.close(handle)
            fix = f"wait until it ends, or choose another folder with {self.option}"
            raise UserError(f"{self.kind} {self.path}: in use by {self.worker}; {fix}") from None
        except OSError:
            os.close(handle)
            raise
        self._lock = handle
