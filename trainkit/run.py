"""A run's folder: one trainer at a time, files that replace each other whole, no name that leads out of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .checkpoint import sweep, sync_folder
from .errors import UserError


class Run:
    """The folder `path`, made when opened, and held by a lock until closed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self._lock: int | None = None

    def open(self) -> None:
        """Make the folder and lock it. Raises UserError where it cannot be made or another trainer holds it."""
        if self._lock is not None:
            return
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
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
        sweep(self.path)
        sweep(self.checkpoints)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name` by `text`, whole or not at all."""
        target = self.file(name)
        temporary = target.with_name(f".tmp-{os.getpid()}-{name}")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            sync_folder(target.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(f"{target}: not written ({error.strerror})") from error

    def file(self, name: str) -> Path:
        """The path of a plain file name in this folder. Raises UserError for a name that could lead elsewhere."""
        return self.path / plain_name(name)


def plain_name(name: str) -> str:
    """`name`, if it is one: no separator, no `..`, no NUL, no leading `-` or `.`."""
    if not name or any(c in name for c in "/\\\0") or ".." in name or name[0] in "-.":
        raise UserError(f"file name {name!r}; needs a plain name without / \\ .. and without a leading - or .")
    return name
