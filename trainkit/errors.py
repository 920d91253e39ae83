"""The errors a user can mend. Each message says place, value and cure; the command line prints it and exits with `code`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


MOST = 40  # names listed in a message


class UserError(ValueError):
    """Something a user wrote, named or stored cannot be used."""

    code = 2


class UserErrors(UserError):
    """Several at once, one a line."""

    def __init__(self, messages: Iterable[str]) -> None:
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


def near(name: str, allowed: Iterable[str]) -> str:
    """`; did you mean 'lr'? (lr, momentum)`: the nearest allowed name, then all of them, or the first forty."""
    allowed = list(allowed)
    lower = {a.lower(): a for a in allowed}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.6)
    guess = f"; did you mean {lower[close[0]]!r}?" if close else ";"
    rest = f", and {len(allowed) - MOST} more" if len(allowed) > MOST else ""
    return f"{guess} ({', '.join(allowed[:MOST]) or 'none'}{rest})"
