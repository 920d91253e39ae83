"""The metrics as a CSV file: a row per epoch, and per validation inside an epoch."""

from __future__ import annotations

import csv
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from trainkit.core.errors import UserError
from trainkit.core.files import write
from trainkit.core.terminal import print_stderr
from trainkit.core.validation import COUNTER, require, short_repr
from trainkit.metrics.statistics import mean, std
from trainkit.trainer.callback import Callback
from trainkit.trainer.session import Session

FILE = "metrics.csv"
PLACE = ["epoch", "step"]  # the first columns: where the run was
WHOLE = re.compile("[0-9]{1,16}")
NUMBER = re.compile(r"(?:[-+]?(?:[0-9]++(?:\.[0-9]*+)?+(?:[eE][-+]?[0-9]++)?+|inf|nan))?+")  # or nothing, for no value
ROW = re.compile(rf"({WHOLE.pattern}),({WHOLE.pattern})(?:,{NUMBER.pattern})*+\r*\n")
FIX = "put back the file as trainkit wrote it, or move it away"


class Mark(NamedTuple):
    """A position in the file: the number of rows, the step of the last one, and how many rows have that step.

    One step can have two rows: that of a validation inside the epoch, and that of the epoch's end.
    """

    rows: int = 0
    step: int = 0
    at_step: int = 0

    def after(self, step: int) -> Mark:
        """Return the mark after one more row, which is of `step`."""
        return Mark(self.rows + 1, step, self.at_step + 1 if step == self.step else 1)


class CSVLogger(Callback):
    """Writer of `metrics.csv`: epoch, step, then the metrics. Numbers are written in full, so that equal runs give equal files.

    With replicas `val/loss` is the mean, `val/loss_std` the standard deviation, `val/loss.0` the first replica. A metric that
    first appears later gets a column after the others.
    A resumed run continues the file, and drops the rows after the step from which it resumes. If that step is before last.pt,
    it drops them only after its first save: until then a further resume would continue from last.pt. Meanwhile the run's own
    rows are kept in memory and in the state of each save.
    Errors: UserError with the line, before anything is written, for a file that CSVLogger has not written.
    """

    needs_run_folder = True
    files = (FILE,)
    file: BinaryIO | None = None
    is_held = False  # the file still belongs to a last.pt that this fit's first save replaces

    def setup(self, session: Session) -> None:
        self.columns = dict.fromkeys(PLACE)
        self.mark = Mark()  # the rows in the file; in a state, the rows that the file must have
        self.tail: list[str] = []  # rows after them that are not written yet
        self.saved_tail = ""
        self.is_marked = self.is_held = False  # is_marked: the state has a count of rows
        self.cut: int | None = None  # the number of an incomplete last line
        self.left_out: set[str] = set()

    def on_fit_start(self, session: Session) -> None:
        """Check the whole file, and find the rows that belong to this state. Raises UserError for the first bad line."""
        assert session.run is not None
        self.path, state = session.run.file(FILE), session.progress
        self.saved_mark, self.mark = self.mark, Mark()
        self.head = self.end = self.size = 0
        if (file := opened(self.path)) is None:
            return
        with file:
            lines = Lines(file, FILE)
            for epoch, step in read(lines):
                following = self.mark.after(step)
                if self.is_marked:
                    belongs = following[1:] <= self.saved_mark[1:]
                else:  # the state of a release without marks
                    belongs = epoch <= state.epoch and step <= state.step
                if belongs:
                    self.mark, self.end = following, lines.end
            self.size = os.fstat(file.fileno()).st_size
        if self.size > lines.end:
            self.cut = lines.number + 1
            if not lines.number or self.mark.rows < self.saved_mark.rows:  # a killed run cuts only a row after its last save
                lines.number = self.cut
                raise lines.error(
                    "no newline ends it (got the end of the file)", "add one if the line is complete, or delete the line"
                )
        if not session.run.continues:  # a run that saved nothing: drop its rows and columns
            self.mark = Mark()
        elif lines.columns:
            self.columns, self.head, self.end = lines.columns, lines.head, max(self.end, lines.head)

    def on_train_start(self, session: Session) -> None:
        if self.cut is not None and not session.last_is_ahead:
            print_stderr(f"{FILE}: line {self.cut} is incomplete (the run was killed while writing it); removed")
        assert session.run is not None
        rows, step, _ = self.saved_mark
        if not session.run.continues and self.size:
            print_stderr(f"{FILE}: started over; its rows are those of a run that saved nothing")
        elif self.is_marked and self.mark.rows != rows and session.run.continues:
            print_stderr(
                f"{FILE}: has {self.mark.rows} rows up to step {step}, the checkpoint counts {rows}; continued as it is"
            )
        for row in csv.DictReader(io.StringIO(self.saved_tail, newline="")):
            self.tail.append(self._line(row))
        self.saved_tail, self.is_held = "", session.last_is_ahead
        if self.is_held:
            return
        if self.tail or self.size != self.end or not self.end or self.path.stat().st_nlink > 1:
            self._rewrite()  # also for a hard link: the other copy of the run keeps its file
        else:
            self.file = open(self.path, "ab")  # noqa: SIM115 (open for the run's length)

    def on_log(self, session: Session) -> None:
        row = {"epoch": repr(session.epochs_done), "step": repr(session.progress.step)}
        for name in sorted(session.metrics.updated):
            values = session.metrics[name]
            if name in PLACE:
                self._leave_out(name)
                continue
            row[name] = repr(mean(values))
            if len(values) > 1:
                row[f"{name}_std"] = repr(std(values))
                row.update({f"{name}.{r}": repr(v) for r, v in enumerate(values)})
        before, line = len(self.columns), self._line(row)
        self.tail.append(line)
        if self.is_held:
            return
        if self.file is None or len(self.columns) > before:
            self._rewrite()
        else:
            self.end += self.file.write(f"{line}\n".encode())
            self.file.flush()
            self._count_tail()

    def on_save_end(self, session: Session) -> None:
        if self.is_held:
            self.is_held = False
            self._rewrite()

    def on_exception(self, session: Session, error: BaseException) -> None:
        self.is_held = False  # nothing was saved: the file still belongs to last.pt

    def on_fit_end(self, session: Session) -> None:
        if self.is_held:
            print_stderr(
                f"{FILE}: continues from step {self.mark.step}, though checkpoints/last.pt is ahead: this fit saved nothing"
            )
            self._rewrite()
        if self.file is not None:
            self.file.close()
            self.file = None

    def state_dict(self) -> dict[str, Any]:
        return {**self.mark._asdict(), "tail": self._text(self.tail) if self.tail else ""}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        require(state, {"rows": COUNTER, "step": COUNTER, "at_step": COUNTER, "tail": str}, "state")
        data = state["tail"].encode()
        lines = Lines(io.BytesIO(data), "state.tail")
        for _ in read(lines, (0, state["step"])):
            pass
        if lines.end < len(data):
            raise UserError("state.tail: no newline ends its last line")
        self.mark, self.saved_tail, self.is_marked = Mark(state["rows"], state["step"], state["at_step"]), state["tail"], True

    def _leave_out(self, name: str) -> None:
        """Print once that a metric is left out, since it has the name of one of the run's own columns."""
        if name not in self.left_out:
            self.left_out.add(name)
            print_stderr(
                f"{FILE}: the metric {short_repr(name)} is left out, since that column is the run's own;"
                " log it under another name"
            )

    def _line(self, row: dict[str, str]) -> str:
        """Return the row as text in the order of the columns; add the columns that are missing."""
        for name in row:
            self.columns.setdefault(name)
        return ",".join([row.get(name, "") for name in self.columns])

    def _text(self, rows: list[str]) -> str:
        """Return the header, and the rows filled up to its width. (Numbers contain no commas or quotes.)"""
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(self.columns)
        commas = len(self.columns) - 1
        return header.getvalue() + "".join([f"{row}{',' * (commas - row.count(','))}\n" for row in rows])

    def _rewrite(self) -> None:
        """Replace the file by its kept rows and the tail."""
        if self.file is not None:
            self.file.close()
        kept: list[str] = []
        if self.mark.rows:
            with open(self.path, "rb") as file:
                file.seek(self.head)
                kept = [line.rstrip("\r") for line in file.read(self.end - self.head).decode().split("\n")[:-1]]
        data = self._text(kept + self.tail).encode()
        write(data, self.path)
        self.head, self.end = len(self._text([]).encode()), len(data)
        self._count_tail()
        self.file = open(self.path, "ab")  # noqa: SIM115 (open for the run's length)

    def _count_tail(self) -> None:
        for line in self.tail:
            self.mark = self.mark.after(int(line.split(",", 2)[1]))
        self.tail = []


def opened(path: Path) -> BinaryIO | None:
    """Open `path` for reading; return None if it does not exist. (`RunFolder.open` has checked that it is a regular file.)"""
    if not path.exists():
        return None
    if not os.access(path, os.W_OK):
        raise UserError(
            f"{FILE}: cannot be written (mode {stat.S_IMODE(path.stat().st_mode):o}); make it writable, or move it away"
        )
    return open(path, "rb")


class Lines(Iterator[str]):
    """The complete lines of a log. `number` and `end` (in bytes) are those of the last line read.

    `read` sets `columns`, and `head`: where the header ends.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.file, self.name = file, name
        self.number = self.end = self.head = 0
        self.columns: dict[str, None] = {}

    def __next__(self) -> str:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise StopIteration
        self.number += 1
        self.end += len(line)
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise self.error(f"is not UTF-8 (got {short_repr(line[error.start : error.end])})") from None

    def error(self, problem: str, fix: str = FIX) -> UserError:
        """Return the error to raise for the last line read."""
        return UserError(f"{self.name}, line {self.number}: {problem}; {fix}")


def read(lines: Lines, before: tuple[int, int] = (0, 0)) -> Iterator[tuple[int, int]]:
    """Yield epoch and step of each row. Raises UserError for the first invalid line, or row before epoch and step `before`."""
    try:
        names = next(csv.reader(lines, strict=True), [])
    except csv.Error as error:
        raise lines.error(f"the header is not CSV ({error})") from None
    if not lines.number:
        return
    if names[:2] != PLACE:
        raise lines.error(f"the header does not begin with epoch,step (got {short_repr(','.join(names[:2]))})")
    lines.columns, lines.head = dict.fromkeys(names), lines.end
    if len(lines.columns) < len(names):
        raise lines.error(f"the header repeats a column (got {short_repr(Counter(names).most_common(1)[0][0])})")
    commas = len(names) - 1
    for line in lines:
        row = ROW.fullmatch(line)
        if row is None or line.count(",") != commas:
            raise lines.error(row_problem(line.rstrip("\r\n").split(","), names))
        now = int(row[1]), int(row[2])
        for name, value, minimum in zip(PLACE, now, before, strict=True):
            if value < minimum:
                raise lines.error(f"{name} is smaller than in the row before (got {value} after {minimum})")
        yield now
        before = now


def row_problem(fields: list[str], names: list[str]) -> str:
    """Return what is wrong with a row that does not match ROW."""
    if len(fields) != len(names):
        return f"has another number of fields than the header (got {len(fields)}, needs {len(names)})"
    for name, field in zip(PLACE, fields, strict=False):
        if not WHOLE.fullmatch(field):
            return f"{name} is not a whole number (got {short_repr(field)})"
    name, field = next((n, f) for n, f in zip(names, fields, strict=True) if not NUMBER.fullmatch(f))
    return f"{short_repr(name)} is not a number (got {short_repr(field)})"
