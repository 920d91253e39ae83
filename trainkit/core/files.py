"""Files: replaced atomically and durably, deleted with a clear error; what a path is; which names are safe."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from .errors import UserError, cause

TEMPORARY = ".tmp-"


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


def remove_temporaries(folder: Path) -> None:
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


def check_writable(folder: Path) -> None:
    """Raise the OSError of a folder in which no file can be made."""
    os.stat(f"{folder}/.")  # raises for what is not a folder
    if os.access(folder, os.W_OK | os.X_OK):
        return
    number = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
    raise OSError(number, os.strerror(number))


KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def kind_of(path: Path, follow: bool = False) -> str | None:
    """What a path is, in words; None where nothing is there. follow: of a link, its target."""
    try:
        status = os.stat(path) if follow else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return KINDS.get(stat.S_IFMT(status.st_mode), "something unknown")


def plain_name(name: str) -> str:
    """`name`, if it is one: no separator, no `..`, no NUL, no leading `-` or `.`."""
    if not name or any(c in name for c in "/\\\0") or ".." in name or name[0] in "-.":
        raise UserError(f"file name {name!r}; needs a plain name without / \\ .. and without a leading - or .")
    return name
