"""A million steps of conf/mlp.yaml with all its callbacks: time and memory. `python benchmarks/million.py`"""

from __future__ import annotations

import argparse
import tempfile
import time

from contest import environment, show
from page import PAGE, ROOT
from task import resident

from trainkit import Callback, Session
from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve

STEPS, SAMPLES = 1_000_000, 20  # steps, and measurements of the memory
OVERRIDES = (
    f"trainer.max_steps={STEPS}",
    "trainer.max_epochs=null",
    "trainer.device=cpu",
    "callbacks.early_stopping=null",
    "callbacks.lr_scheduler=null",  # its cosine ends after max_epochs
    "callbacks.progress_bar=null",
)


class Memory(Callback):
    """The resident bytes after each twentieth of the steps."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def next_step(self, step: int) -> int | None:
        each = STEPS // SAMPLES
        return step - step % each + each

    def on_train_batch_end(self, session: Session) -> None:
        if session.progress.step % (STEPS // SAMPLES) == 0:
            self.bytes.append(resident("VmRSS"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    rows = []
    for engine in ("native", "eager"):
        memory = Memory()
        with tempfile.TemporaryDirectory() as folder:
            parts = build(resolve(compose([ROOT / "conf" / "mlp.yaml"], [*OVERRIDES, f"trainer.engine={engine}"])))
            trainer = parts.trainer({**parts.callbacks, "memory": memory}, run_dir=folder)
            optimizer, data = parts.optimizer(parts.net), parts.data()
            began = time.perf_counter()
            summary = trainer.fit(parts.net, parts.loss, optimizer, data)
            seconds = time.perf_counter() - began
        assert summary["step"] == STEPS, summary
        assert trainer.fitted().engine == engine
        low, high = min(memory.bytes) / 2**20, max(memory.bytes) / 2**20
        rows.append([engine, f"{seconds:.0f}", f"{1e6 * seconds / STEPS:.1f}", f"{low:.1f} to {high:.1f}"])
    note = f"The memory is that of the process after each of {SAMPLES} equal parts of the run. {environment(1)}"
    header = ("engine", "seconds", "us per step", "MiB, least to most")
    show("million", header, rows, note, PAGE if parser.parse_args().write else None)


if __name__ == "__main__":
    main()
