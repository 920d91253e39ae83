"""metrics.csv: a row a moment, readable by any tool."""

from __future__ import annotations

import csv
import io
from typing import Any, TextIO

from trainkit.callback import Callback
from trainkit.pattern import COUNT, accept
from trainkit.summary import deviation
from trainkit.trainer import Trainer

FILE = "metrics.csv"


class CSVLog(Callback):
    """Writes `metrics.csv`: epoch, step, then the metrics. Numbers stand in full, so that equal runs give equal files.

    With replicas `val/loss` is the mean, `val/loss_std` the deviation, `val/loss.0` the first replica. A metric that turns
    up later gets a column behind the others. A resumed run continues the file, without rows from after its checkpoint.
    """

    writes = True
    files = ("metrics.csv",)

    def setup(self, trainer: Trainer) -> None:
        self.columns, self.rows = ["epoch", "step"], 0
        self.file: TextIO | None = None

    def on_train_start(self, trainer: Trainer) -> None:
        kept = self._read(trainer)[: self.rows] if self.rows else []
        self.rows = len(kept)  # fewer where the run goes on in another folder
        self._rewrite(trainer, kept)

    def on_log(self, trainer: Trainer) -> None:
        row: dict[str, Any] = {"epoch": trainer.epochs_done, "step": trainer.state.step}
        for name in sorted(trainer.fresh):
            values = trainer.metrics[name]
            row[name] = values[0] if len(values) == 1 else sum(values) / len(values)
            if len(values) > 1:
                row[f"{name}_std"] = deviation(values)
                row.update({f"{name}.{r}": v for r, v in enumerate(values)})
        new = [c for c in row if c not in self.columns]
        if new:
            old = self._read(trainer)
            self.columns += new
            self._rewrite(trainer, old)
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

    def _rewrite(self, trainer: Trainer, rows: list[dict[str, str]]) -> None:
        assert trainer.run is not None
        if self.file is not None:
            self.file.close()
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({c: row.get(c, "") for c in self.columns} for row in rows)
        trainer.run.write_text(FILE, text.getvalue())
        self.file = open(trainer.run.file(FILE), "a", newline="", encoding="utf-8")  # noqa: SIM115 (open for the run's length)

    @staticmethod
    def _read(trainer: Trainer) -> list[dict[str, str]]:
        assert trainer.run is not None
        path = trainer.run.file(FILE)
        if not path.exists():
            return []
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
