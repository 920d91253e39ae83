"""Compiled libraries, kept between processes in the user's cache folder: one folder each, named by a hash of its key."""

from __future__ import annotations

import atexit
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import cause
from .terminal import print_stderr

LIBRARY, DIGEST = "library.so", "sha256"


def cache_folder() -> Path:
    """Return $XDG_CACHE_HOME/trainkit, or ~/.cache/trainkit."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "trainkit"


def library(key: object, build: Callable[[Path], Path]) -> Path:
    """Return the path of the library for `key`. Where the cache holds none, call `build(folder)`, which returns what it wrote.

    key: all that the library depends on, with a `repr` that is the same in each process. A library is used only if no other
    user can write it and its SHA-256 is right; else it is built again. Where the cache cannot be written, the library is
    built in a temporary folder, deleted when the process ends, and a line on stderr says why. Two processes may build the same
    library; the first one to finish keeps it.
    """
    folder = folder_of(key)
    if is_valid(folder):
        return folder / LIBRARY
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_own(folder.parent):
            raise PermissionError(errno.EPERM, "another user can write into it")
        temporary = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    except OSError as error:
        print_stderr(f"{folder.parent}: compiled code is not kept, {cause(error)}")
        temporary = folder = Path(tempfile.mkdtemp(prefix="trainkit-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        tidy(temporary, build(temporary))
        if folder != temporary:
            keep(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder / LIBRARY


def folder_of(key: object) -> Path:
    return cache_folder() / hashlib.sha256(repr(key).encode()).hexdigest()[:32]


def is_kept(key: object) -> bool:
    """Return whether the cache holds the library for `key`."""
    return is_valid(folder_of(key))


def is_valid(folder: Path) -> bool:
    """Return whether `folder` holds a complete library that only this user can write."""
    try:
        return all(map(is_own, (folder.parent, folder, *folder.iterdir()))) and (folder / DIGEST).read_text() == digest(folder)
    except (OSError, UnicodeDecodeError):
        return False


def is_own(path: Path) -> bool:
    """Return whether `path`, not a link, belongs to this user, and no other user can write it."""
    status = path.lstat()
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return not stat.S_ISLNK(status.st_mode) and status.st_uid == os.geteuid() and not writable


def digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of the files in `folder`."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != DIGEST:
            total.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def tidy(folder: Path, built: Path) -> None:
    """Name the library `built` LIBRARY, delete what else is in `folder`, and write DIGEST."""
    built.rename(folder / LIBRARY)
    for path in folder.iterdir():
        if path.name != LIBRARY:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / DIGEST).write_text(digest(folder))
    for path in folder.iterdir():
        path.chmod(0o600)  # whatever the umask: else the library would not count as the user's own


def keep(temporary: Path, folder: Path) -> None:
    """Move what was built to `folder`, unless another process has done so in the meantime."""
    for _ in range(2):
        with suppress(OSError):  # the folder exists
            temporary.rename(folder)
            return
        if is_valid(folder):
            break
        shutil.rmtree(folder)  # damaged
    shutil.rmtree(temporary, ignore_errors=True)
