"""The cost of the trainer and of each callback per step of conf/mlp.yaml. `python benchmarks/by_callback.py`"""

from __future__ import annotations

import statistics

from contest import Contender, contest, environment, options, show, spread
from step import EPOCHS, TASK

SPLIT = "validation_split: {fraction: 0.1}"
EACH = {  # one by one; early_stopping needs the metrics of validation_split
    "none": "",
    "validation_split": SPLIT,
    "validation_split, early_stopping": f"{SPLIT}, early_stopping: {{monitor: val/loss, patience: 1000000}}",
    "checkpoint": "checkpoint: {monitor: train/loss}",
    "lr_scheduler": "lr_scheduler: {CosineAnnealingLR: {T_max: 100}}",
    "tensorboard": "tensorboard: {}",
    "csv_logger": "csv_logger: {}",
    "progress_bar": "progress_bar: {}",
    "terminate_on_nan": "terminate_on_nan: {}",
    "timer": "timer: {max_time: 3600}",
    "gradient_norms": "gradient_norms: {}",
}


def main() -> None:
    rounds, page = options(__doc__, rounds=15)
    chosen = {}
    for name, text in EACH.items():
        samples = 1000 if SPLIT in text else 900  # 900 of them to train in both cases
        chosen[name] = Contender(name, "ours:conf", options={"overrides": (f"callbacks={{{text}}}", f"data.train={samples}")})
    chosen["no trainer: the steps alone"] = Contender("no trainer", "ours:steps")
    times = [[r.seconds / r.steps * 1e6 for r in rs] for rs in contest(chosen, TASK, EPOCHS, rounds, 1, warm=TASK)]
    added = [statistics.median(v - n for v, n in zip(t, times[0], strict=True)) for t in times]
    rows = [[name, spread(t), f"{m:+.1f}"] for name, t, m in zip(chosen, times, added, strict=True)]
    header = ("callback", "us per step, median (min to max)", "difference to none, median")
    steps = f"{EPOCHS} epochs of {TASK.samples // TASK.batch} steps"
    show("callbacks", header, rows, f"{rounds} rounds of a complete fit of {steps} in turn. {environment(1)}", page)


if __name__ == "__main__":
    main()
