"""A limit of the training time."""

from __future__ import annotations

import math
import time
from typing import Any

from trainkit.core.errors import UserError
from trainkit.core.validation import require, short_repr
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session


class Timer(Callback):
    """Ends the run after `max_time` of training: seconds, "HH:MM:SS" or "DD:HH:MM:SS". Checked when losses are fetched.

    The training time before a resume counts; the time between the two runs does not. The clock is monotonic.
    """

    def __init__(self, max_time: float | str) -> None:
        self.limit = seconds(max_time)
        self.before = 0.0

    def setup(self, session: Session) -> None:
        self.before, self.began = 0.0, time.monotonic()

    def on_step_log(self, session: Session, losses: list[float]) -> None:
        if self.elapsed() >= self.limit:
            session.stop("max_time", f"the time limit of {self.limit:g} s was reached")

    def elapsed(self) -> float:
        """Return the seconds of training so far."""
        return self.before + time.monotonic() - self.began

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require(state, {"elapsed": float}, "state")
        if not 0 <= state["elapsed"] < float("inf"):
            raise UserError(f"state.elapsed: {short_repr(state['elapsed'])}; needs 0 or more seconds")
        self.before = state["elapsed"]


UNITS = (86_400, 3600, 60, 1)  # seconds per day, hour, minute, second
BELOW = (24, 60, 60)  # hours, minutes and seconds after a larger field


def seconds(text: float | str) -> float:
    """Return a time in seconds: `90`, "90", "01:30", "00:01:30" and "00:00:01:30" are all 90 s.

    Only the first of several fields may be larger than a clock shows. Raises UserError for anything else.
    """
    try:
        fields = [float(field) for field in str(text).split(":")]
    except ValueError:
        fields = []
    n = len(fields)
    value = sum(field * unit for field, unit in zip(fields, UNITS[-n:], strict=False)) if 0 < n <= len(UNITS) else 0.0
    is_clock = all(0 <= field < below for field, below in zip(fields, (math.inf, *BELOW[len(BELOW) - n + 1 :]), strict=False))
    if not is_clock or not 0 < value < math.inf:
        raise UserError(
            f"Timer: max_time={text!r}; needs seconds above 0, or 'HH:MM:SS' or 'DD:HH:MM:SS' in quotes, with minutes and"
            " seconds below 60"
        )
    return value
