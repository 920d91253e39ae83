"""The errors a user can mend. Each message says place, value and cure; the command line prints it and exits with `code`."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

MAX_NAMES = 40  # names listed in a message


class UserError(ValueError):
    """Something a user wrote, named or stored cannot be used."""

    code = 2


class UserErrors(UserError):
    """Several at once, one a line."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


def escape_control(text: str) -> str:
    """`text` without what a terminal would obey: a stranger's file may have brought it in."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def memory_error_message(error: BaseException) -> str | None:
    """What to say of an error that means too little memory, else None."""
    text = str(error)
    if not isinstance(error, MemoryError) and not re.search("allocate|out of memory|Storage size calculation overflow", text):
        return None
    asked = re.search(r"allocate (\d+) bytes", text)
    return f"not enough memory{f' for {int(asked[1]) / 1e9:.3g} GB' if asked else ''}; make it smaller"


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def os_error_message(error: BaseException | None) -> str | None:
    """What to say of an error of the operating system about a file, or about a disk that is full or fails, else None."""
    if not isinstance(error, OSError) or not (error.filename or error.errno in DISK):
        return None
    name = str(error.filename or "")
    place = f"{name[:100]}{'...' if len(name) > 100 else ''}: " if name else ""
    return f"{place}{cause(error)}"


def cause(error: OSError) -> str:
    """`No space left on device (ENOSPC)`."""
    return f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"


def suggest(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'lr'? (lr, momentum)`: the nearest allowed name, then all of them, or the first forty."""
    allowed = list(allowed)
    lower = {a.lower(): a for a in allowed}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    guess = f"; did you mean {lower[close[0]]!r}?" if close else ";"
    rest = f", and {len(allowed) - MAX_NAMES} more" if len(allowed) > MAX_NAMES else ""
    return f"{guess} ({', '.join(allowed[:MAX_NAMES]) or 'none'}{rest})"
