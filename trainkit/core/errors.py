"""Errors that a user can fix. A message gives place, problem and fix; the command line prints it and exits with `code`."""

from __future__ import annotations

import difflib
import errno
import re
import unicodedata
from collections.abc import Iterable
from types import TracebackType

MAX_NAMES = 40  # names listed in a message


class UserError(ValueError):
    """An error in what the user wrote, named or stored."""

    code = 2


class UserErrors(UserError):
    """Several errors in one, one per line."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


class ErrorCollector:
    """`with collector:` around each of several independent checks keeps its UserError; `throw` raises all that were kept."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, UserError):
            self.messages += [line for line in str(error).split("\n") if line not in self.messages]
        return isinstance(error, UserError)

    def throw(self) -> None:
        """Raise UserErrors with what was kept, the first MAX_NAMES lines, if there is any."""
        if self.messages:
            more = len(self.messages) - MAX_NAMES
            raise UserErrors(self.messages[:MAX_NAMES] + ([f"and {more} more errors like these"] if more > 0 else []))


def escape_control(text: str) -> str:
    """Return `text` with control characters escaped: text from an untrusted file could otherwise control the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def memory_error_message(error: BaseException) -> str | None:
    """Return the message for an error that means too little memory; None for another error."""
    text = str(error)
    if not isinstance(error, MemoryError) and not re.search("allocate|out of memory|Storage size calculation overflow", text):
        return None
    asked = re.search(r"allocate (\d+) bytes", text)
    return f"not enough memory{f' for {int(asked[1]) / 1e9:.3g} GB' if asked else ''}; make it smaller"


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def os_error_message(error: BaseException | None) -> str | None:
    """Return the message for an OSError that names a file, or that means a full or failing disk; None for another error."""
    if not isinstance(error, OSError) or not (error.filename or error.errno in DISK):
        return None
    name = str(error.filename or "")
    place = f"{name[:100]}{'...' if len(name) > 100 else ''}: " if name else ""
    return f"{place}{cause(error)}"


def cause(error: OSError) -> str:
    """Return the reason of an OSError: `No space left on device (ENOSPC)`."""
    return f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, '?')})"


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'lr'? (lr, momentum)`: the nearest allowed name, then the first `MAX_NAMES` allowed names.

    The first allowed name of which `name` is a word is the nearest: `epochs` means `max_epochs`.
    """
    allowed = list(allowed)
    lower = {a.lower(): a for a in allowed}
    close = [a for a in lower if name.lower() in re.split(r"[_/.]", a)]
    close += difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    guess = f"; did you mean {lower[close[0]]!r}?" if close else ";"
    if same := next((a for a in allowed if unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", name)), None):
        # The two look alike. `e` and a combining accent are two characters, an accented letter is one.
        how = "with combining characters" if len(same) > len(name) else "without combining characters"
        guess = f"; did you mean {same!r}, written {how}?"
    rest = f", and {len(allowed) - MAX_NAMES} more" if len(allowed) > MAX_NAMES else ""
    return f"{guess} ({', '.join(allowed[:MAX_NAMES]) or 'none'}{rest})"
