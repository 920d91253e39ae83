"""A folder that one process at a time writes into: a marker file in it says that it is ours, and that process has it locked."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from .errors import UserError
from .files import kind_of

EVENTS = "events.out.tfevents"  # what the names of TensorBoard's files begin with


class Folder:
    """The folder `path`. `lock` and `begin` lock it, until `close`; only `begin` writes.

    numbered: where the path exists when the folder is made, a number is put behind it. So runs that begin in one second, each
    in a folder that is named by the time, get a folder each.
    """

    kind = "folder"  # as messages call it
    worker = "another process"
    option = "--out"
    marker = ".trainkit"

    def __init__(self, path: Path, numbered: bool = False) -> None:
        self.path, self.numbered = path, numbered
        self._lock: int | None = None
        self._made: list[Path] = []  # what `begin` has made: the marker, then folders from the innermost out

    @property
    def marked(self) -> bool:
        """Whether the marker is there, as a file."""
        return kind_of(self.path / self.marker) == "a file"

    def there(self, names: Iterable[str]) -> list[str]:
        """Which of these names the folder has, whatever they are. Raises UserError where the path is not a folder."""
        try:
            if not self.path.is_dir():
                if os.path.lexists(self.path):
                    raise NotADirectoryError(0, "Not a directory")
                return []
            found = []
            for name in names:
                if name == EVENTS:
                    found += sorted(n for n in os.listdir(self.path) if n.startswith(EVENTS))
                elif os.path.lexists(self.path / name):
                    found.append(name)
            return found
        except OSError as error:
            raise self.refusal(error) from error

    def lock(self) -> None:
        """Lock a folder that has the marker. Writes nothing. Raises UserError where it is not writable or already locked."""
        if self._lock is not None:
            return
        try:
            if not self.marked:  # a device, say: opening one may do something
                raise FileNotFoundError(errno.ENOENT, f"there is no file {self.marker}")
            flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._hold(os.open(self.path / self.marker, flags))
        except OSError as error:
            raise self.refusal(error) from error

    def begin(self) -> None:
        """Make the folder and its marker, if they are not there, and lock it.

        Raises UserError where that fails; what was made is removed again.
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
            self._hold(handle)
            self._made.insert(0, marker)  # not before: where another process was first to lock it, it is that one's
            os.write(handle, f"{self.kind} of trainkit; {self.worker} cannot write here while this file is locked\n".encode())
        except BaseException as error:
            self.undo()
            if isinstance(error, OSError):
                raise self.refusal(error) from error
            raise

    def undo(self) -> None:
        """Remove what `begin` has made, folders only where they are empty, and unlock."""
        for path in self._made:
            with suppress(OSError):
                path.unlink() if path.name == self.marker else path.rmdir()
        self.close()

    def close(self) -> None:
        """Unlock."""
        self._made = []  # another fit may use the object, and has made nothing of it
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def refusal(self, error: OSError) -> UserError:
        """The error for a folder that cannot be used."""
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

    def _hold(self, handle: int) -> None:
        """Lock the marker that was opened, or close it."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(handle).st_nlink:  # the process that held the lock has removed it since
                raise BlockingIOError
        except BlockingIOError:
            os.close(handle)
            cure = f"wait for it, or choose another with {self.option}"
            raise UserError(f"{self.kind} {self.path}: {self.worker} is at work in it; {cure}") from None
        except OSError:
            os.close(handle)
            raise
        self._lock = handle
