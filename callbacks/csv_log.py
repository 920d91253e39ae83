"""metrics.csv: a row a moment, readable by any tool."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, TextIO

from trainkit.callback import Callback
from trainkit.errors import UserError
from trainkit.pattern import COUNT, accept
from trainkit.summary import deviation
from trainkit.trainer import Trainer


class CSVLog(Callback):
    """Writes `metrics.csv`: epoch, step, then the metrics. Numbers stand in full, so that equal runs give equal files.

    With replicas `val/loss` is the mean, `val/loss.std` the deviation, `val/loss.0` the first replica. A metric that turns
    up later gets a column behind the others. A resumed run continues the file, without rows from after its checkpoint.
    """

    def setup(self, trainer: Trainer) -> None:
        self.columns, self.rows = ["epoch", "step"], 0
        self.file: TextIO | None = None
        if trainer.run is None:
            raise UserError("needs a run folder to write in; give the trainer a run_dir")

    def on_fit_start(self, trainer: Trainer) -> None:
        path = self._path(trainer)
        self._rewrite(path, self._read(path)[: self.rows] if self.rows else [])

    def on_log(self, trainer: Trainer) -> None:
        row: dict[str, Any] = {"epoch": trainer.epochs_done, "step": trainer.state.step}
        for name in sorted(trainer.fresh):
            values = trainer.metrics[name]
            row[name] = values[0] if len(values) == 1 else sum(values) / len(values)
            if len(values) > 1:
                row[f"{name}.std"] = deviation(values)
                row.update({f"{name}.{r}": v for r, v in enumerate(values)})
        new = [c for c in row if c not in self.columns]
        if new:
            path = self._path(trainer)
            old = self._read(path)
            self.columns += new
            self._rewrite(path, old)
        assert self.file is not None
        csv.DictWriter(self.file, self.columns, lineterminator="\n").writerow(row)
        self.file.flush()
        self.rows += 1

    def on_fit_end(self, trainer: Trainer) -> None:
        if getattr(self, "file", None) is not None:
            self.file.close()  # type: ignore[union-attr]
            self.file = None

    def state_dict(self) -> dict[str, Any]:
        return {"columns": self.columns, "rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        accept(state, {"columns": [str], "rows": COUNT}, "state")
        self.columns, self.rows = list(state["columns"]), state["rows"]

    def _rewrite(self, path: Path, rows: list[dict[str, str]]) -> None:
        if self.file is not None:
            self.file.close()
        temporary = path.with_name(".tmp-metrics.csv")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({c: row.get(c, "") for c in self.columns} for row in rows)
        temporary.replace(path)
        self.file = open(path, "a", newline="", encoding="utf-8")  # noqa: SIM115 (open for the run's length)

    @staticmethod
    def _read(path: Path) -> list[dict[str, str]]:
        if not path.exists():
            return []
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @staticmethod
    def _path(trainer: Trainer) -> Path:
        assert trainer.run is not None
        return trainer.run.file("metrics.csv")
