"""Replace files atomically and durably, delete them with a clear error, and check paths and names."""

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


def path_of(text: str | Path) -> Path:
    """Return a path; ~ is the home directory, where the shell has not replaced it, as in --run-dir=~/runs.

    Raises UserError for the home directory of a user who does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        name = str(text)
        fix = "write the path in full, or ./~ for a name that begins with ~"
        if re.fullmatch(r"~\w+(\.\w+)+", name):
            fix = f"to leave a key of a configuration out, write {name[1:]}=null"
        raise UserError(f"{name}: there is no such home directory; {fix}") from error


def write(data: bytes | Callable[[IO[bytes]], object], path: Path) -> None:
    """Replace `path` atomically and durably by `data`, or by what the function `data` writes into an open file.

    On an error the old file is unchanged and the temporary file is removed. Raises UserError with path and cause.
    """
    check_target(path)
    temporary = path.with_name(f"{TEMPORARY}{os.urandom(8).hex()}-{path.name}")  # a new name, even if a killed process left one
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            with os.fdopen(handle, "wb") as file:
                keep_mode(handle, path)
                file.write(data) if isinstance(data, bytes) else data(file)
                file.flush()
                os.fsync(file.fileno())  # not repeated: after a failure the kernel may have dropped the pages
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"{path}: not saved, {cause(error)}; the previous file is unchanged") from error
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path}: written, but its folder cannot be synced, {cause(error)}; it may be lost in a crash"
        ) from error


def check_target(path: Path) -> None:
    """Raise UserError if a link, pipe, device or folder is at `path`: the rename would replace it."""
    found = None
    with suppress(OSError):  # opening the temporary file raises the same error
        found = kind_of(path)
    if found not in (None, "a file"):
        raise UserError(f"{path}: not saved, there is {found}, not a regular file; remove it, or choose another path")


def keep_mode(handle: int, path: Path) -> None:
    """Give an open file the permissions of `path`, the file that it will replace, if that exists."""
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
    """Delete the temporary files that a killed run left in `folder`. The caller holds the folder's lock."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if re.fullmatch(rf"{re.escape(TEMPORARY)}[0-9a-f]+-.+", path.name, re.DOTALL) and kind_of(path) == "a file":
            delete(path)


def delete(path: Path) -> None:
    """Delete a file, if it exists. Raises UserError with path and cause."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be deleted, {cause(error)}") from error


def check_writable(folder: Path) -> None:
    """Raise OSError if no file can be created in `folder`."""
    os.stat(f"{folder}/.")  # raises if it is not a folder
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
    """Return what a path is, in words, or None if it does not exist. follow: describe the target of a link."""
    try:
        status = os.stat(path) if follow else os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return KINDS.get(stat.S_IFMT(status.st_mode), "something unknown")


def plain_name(name: str) -> str:
    """Return `name`. Raises UserError if it has a separator, `..`, NUL, or a leading `-` or `.`, or is empty."""
    if not name or any(c in name for c in "/\\\0") or ".." in name or name[0] in "-.":
        raise UserError(f"file name {name!r}; needs a plain name without / \\ .. and without a leading - or .")
    return name
