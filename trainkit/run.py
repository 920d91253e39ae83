"""A run's folder: one trainer at a time, files that replace each other whole, no name that leads out of it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from .checkpoint import load, saved, sweep, write
from .errors import UserError


class Run:
    """The folder `path`, made when opened, and held by a lock until closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._lock: int | None = None

    def open(self, new: bool = True) -> None:
        """Make the folder and lock it. Raises UserError where it cannot be made, another trainer holds it, or, unless its run
        is to go on (new is False), where it holds one.
        """
        if self._lock is not None:
            return
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if self.checkpoints.is_symlink():
                raise UserError(f"run folder {self.path}: checkpoints is a link and could lead elsewhere; make it a folder")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            self._lock = os.open(self.path / ".lock", flags, 0o644)
            if not os.access(self.checkpoints, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "Permission denied", str(self.checkpoints))
        except OSError as error:
            self.close()
            raise UserError(
                f"run folder {self.path}: cannot be made or written ({error.strerror}); choose another with --run-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise UserError(
                f"run folder {self.path}: another trainer is at work in it; wait for it, or choose another with --run-dir"
            ) from None
        if new and self.taken():
            self.close()
            raise UserError(
                f"run folder {self.path}: holds a run already; continue it, --resume {self.path}, or choose another"
            )
        sweep(self.path)
        sweep(self.checkpoints)

    def taken(self) -> bool:
        """Whether a run has left a checkpoint or its summary here."""
        return bool(saved(self.checkpoints)) or (self.path / "summary.json").exists()

    def is_ahead(self, step: int) -> bool:
        """Whether `last.pt` holds a later step than `step`."""
        try:
            return bool(load(self.checkpoints / "last.pt")["state"]["step"] > step)
        except UserError:
            return False

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name` by `text`, whole or not at all."""
        write(text.encode(), self.file(name))

    def discard(self) -> None:
        """Delete the folder, which was made for this run, where nothing was saved in it."""
        if not saved(self.checkpoints):
            shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def file(self, name: str) -> Path:
        """The path of a plain file name in this folder. Raises UserError for a name that could lead elsewhere."""
        return self.path / plain_name(name)


def plain_name(name: str) -> str:
    """`name`, if it is one: no separator, no `..`, no NUL, no leading `-` or `.`."""
    if not name or any(c in name for c in "/\\\0") or ".." in name or name[0] in "-.":
        raise UserError(f"file name {name!r}; needs a plain name without / \\ .. and without a leading - or .")
    return name
