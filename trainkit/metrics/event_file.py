"""A TensorBoard event file, written in blocks by the thread that trains.

tensorboard's own EventFileWriter passes each event to a second thread. On steps of 80 microseconds this took a tenth of
the time of the run (docs/decisions.md).
"""

from __future__ import annotations

import os
import re
import socket
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

PREFIX = "events.out.tfevents."
EVENTS = f"{PREFIX}*"  # the names of all event files in a folder
_number = count()


class EventFile:
    """A new event file in `folder`. Events reach the disk when `every_seconds` have passed, at `flush` and at `close`."""

    def __init__(self, folder: Path, every_seconds: float = 2.0) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # here, since EVENTS is also used where no file is written
        from tensorboard.summary.writer.record_writer import RecordWriter

        found = (re.match(rf"{re.escape(PREFIX)}([0-9]{{10}})\.", path.name) for path in folder.iterdir())
        # TensorBoard reads files in the order of their names. This name sorts after the others, even within one second.
        stamp = max([int(time.time()), *(int(match[1]) + 1 for match in found if match)])
        name = f"{PREFIX}{stamp:010d}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self._file = open(folder / name, "xb")  # noqa: SIM115 (stays open during the run)
        self._records = RecordWriter(self._file)
        self._waiting: list[bytes] = []
        self._every, self._flushed = every_seconds, time.monotonic()
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def add_event(self, event: Event) -> None:
        self._waiting.append(event.SerializeToString())
        if time.monotonic() - self._flushed >= self._every:
            self.flush()

    def flush(self) -> None:
        for record in self._waiting:
            self._records.write(record)
        self._waiting = []
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._file.close()
