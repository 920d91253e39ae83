"""Reproduce the five reports: `python benchmarks/reports.py` writes docs/reports.md and its figures.

The page's text is in reports.md.in. The reports' own numbers are quoted here and there; every other number is measured. One
thread is used, so that the numbers do not depend on the number of cores.
"""

from __future__ import annotations

import argparse
import math
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from trainkit import __version__  # noqa: E402
from trainkit.app.compare import figures, reference, tables, timed_fit, trial  # noqa: E402
from trainkit.app.compare.grid import axis, planned  # noqa: E402
from trainkit.app.compare.timed_fit import Clock, TimedFit  # noqa: E402
from trainkit.app.compare.trial import Trial  # noqa: E402
from trainkit.app.config.build import build  # noqa: E402
from trainkit.app.config.files import compose, override, resolve  # noqa: E402
from trainkit.core.files import write  # noqa: E402
from trainkit.metrics.statistics import summarize  # noqa: E402

CONF = ROOT / "conf" / "reports"
PAGE = ROOT / "docs" / "reports.md"
Values = dict[str, str]  # the values of the page's {names}
QUIET = "callbacks.progress_bar=null"
LOSSES = {"mse": "MSE", "mae": "MAE", "ce": "cross entropy"}
CADEI = {  # the report's train and test error, mean and standard deviation of ten runs
    "mse": ((0.0162, 0.0051), (0.0255, 0.0051)),
    "mae": ((0.0232, 0.0085), (0.0312, 0.0094)),
    "ce": ((0.0162, 0.0068), (0.0229, 0.0082)),
}
SUN = {  # the report's milliseconds, training and test error in percent, of ten runs
    "the report": ((222, 249, 231, 217, 222, 221, 234, 226, 216, 235),
               (5.5, 11.9, 7.0, 4.9, 6.4, 7.7, 15.5, 5.6, 5.4, 4.0),
               (5.5, 10.6, 5.4, 4.1, 5.3, 7.4, 13.9, 4.8, 4.8, 5.0)),
    "the report's PyTorch": ((260, 252, 257, 245, 255, 264, 301, 255, 258, 259),
                      (8.3, 1.4, 4.7, 7.4, 3.7, 2.7, 6.0, 5.9, 5.7, 3.6),
                      (10.3, 5.6, 6.5, 12.7, 9.0, 6.4, 7.9, 8.6, 11.2, 8.5)),
}  # fmt: skip


def config(conf: str, *overrides: str) -> dict[str, Any]:
    """Return a report's configuration with overrides, without the progress bar."""
    return resolve(compose([CONF / f"{conf}.yaml"], [QUIET, *overrides]))


def run(conf: str, *overrides: str, name: str | None = None, against: str | None = None) -> Trial:
    """Train a configuration, and print it on stderr; return its trial."""
    print("  ", conf, *overrides, against or "", file=sys.stderr, flush=True)
    return trial.run(name or conf, config(conf, *overrides), against)


def with_init(conf: str, init: str) -> Trial:
    """Train a configuration with other initial weights; return its trial."""
    composed = compose([CONF / f"{conf}.yaml"], [QUIET])
    for i, layer in enumerate(composed.model):
        if not isinstance(layer, str):
            override(composed, f"model[{i}].Linear.init={init}")
    print("  ", conf, init, file=sys.stderr, flush=True)
    return trial.run(f"{conf} {init}", resolve(composed))


# -- how numbers are written -------------------------------------------------------------------------------------------


def cell(o: TimedFit, metric: str) -> str:
    return tables.mean(summarize(o.metrics[metric]))


def middle(o: TimedFit, metric: str) -> str:
    s = summarize(o.metrics[metric])
    return f"{tables.four_digits(s['median'])} ({tables.four_digits(s['min'])} to {tables.four_digits(s['max'])})"


def average(o: TimedFit, metric: str) -> float:
    return summarize(o.metrics[metric])["mean"]


def pair(numbers: tuple[float, float]) -> str:
    return f"{numbers[0]:.4f} ± {numbers[1]:.4f}"


def covered(reported: tuple[float, float], o: TimedFit, metric: str) -> str:
    """Return whether our mean is within the report's mean ± its standard deviation."""
    return "yes" if abs(average(o, metric) - reported[0]) <= reported[1] else "no"


def bare(values: Sequence[float], digits: int) -> str:
    s = summarize([float(v) for v in values])
    return f"{s['mean']:.{digits}f} ± {s['std']:.{digits}f} ({s['min']:g} to {s['max']:g})"


def percent(o: TimedFit, metric: str) -> str:
    return bare([round(100 * v, 1) for v in o.metrics[metric]], 1)


def outcome_rows(trials: Sequence[Trial], metrics: Sequence[str]) -> str:
    """Return a row per trial: mean ± std and median (min to max) of each metric, and how many models failed."""
    head = [h for m in metrics for h in (f"{m}, mean ± std", "median (min to max)")]
    rows = [["configuration", *head, "failed"]]
    for t in trials:
        o = t.outcomes[0]
        rows.append([t.name, *(c for m in metrics for c in (cell(o, m), middle(o, m))), tables.failed(o)])
    return tables.table(rows)


def drawn(report: str, names: Sequence[str], trials: Sequence[Trial], words: str, log: bool = False) -> str:
    """Write some of the trials' figures beside the page; return the lines that show them."""
    files = figures.draw(trials, log)
    folder = PAGE.with_suffix("")
    folder.mkdir(exist_ok=True)
    for name in names:
        write(files[name], folder / f"{report}-{name}.png")
    return "\n\n".join(f"![{report}: {words}]({folder.name}/{report}-{name}.png)" for name in names)


def grid(conf: str, *axes: str) -> str:
    """Return the table of a grid over a configuration, with ten models per point and a tenth of the data for validation."""
    trials = []
    overrides = [QUIET, "trainer.replicas=10", "callbacks.validation_split.fraction=0.1"]
    for plan in planned(CONF / f"{conf}.yaml", overrides, [axis(a) for a in axes], several=False):
        print("  ", conf, plan.name, file=sys.stderr, flush=True)
        trials += plan.run(None)
    return tables.of_grid(trials)


def beside_torch(t: Trial) -> tuple[str, float, float]:
    """Return the table of a trial and torch.nn, and the ratios to torch.nn of a model alone and of one of the replicas."""
    rows = [
        [
            "implementation",
            "train error, %",
            "test error, %",
            "test loss",
            "seconds",
            "µs per step and model",
            "largest difference",
        ]
    ]
    for o in t.outcomes:
        difference = "" if o.difference is None else tables.format_difference(o.difference)
        errors = [percent(o, "train/error"), percent(o, "test/error"), cell(o, "test/loss")]
        rows.append([o.by, *errors, f"{o.seconds:.2f}", f"{o.us_per_step:.1f}", difference])
    together, alone, other = (o.us_per_step for o in t.outcomes)
    return tables.table(rows), alone / other, together / other


# -- the reports ------------------------------------------------------------------------------------------------------


def cadei() -> Values:
    variants = {"": "as interpreted", "_text": "as written", "_scaled": "inputs scaled"}
    trials = {(k, r): run(f"cadei_{k}{r}") for k in LOSSES for r in variants}
    head = [
        "loss",
        "run",
        "train error, report",
        "ours",
        "test error, report",
        "ours",
        "median (min to max)",
        "covered",
        "failed",
    ]
    rows = [head]
    for (k, r), t in trials.items():
        o, (train, test) = t.outcomes[0], CADEI[k]
        row = [
            LOSSES[k],
            f"[{variants[r]}](../conf/reports/cadei_{k}{r}.yaml)",
            pair(train),
            cell(o, "train/error"),
            pair(test),
        ]
        rows.append([*row, cell(o, "test/error"), middle(o, "test/error"), covered(test, o, "test/error"), tables.failed(o)])
    last = run("cadei_mse", "callbacks.early_stopping=null")
    other_points = [trials["mse", ""], *(run("cadei_mse", f"data.seed={s}") for s in (1, 2, 3))]
    draws = [average(t.outcomes[0], "test/error") for t in other_points]
    losses = [trials[k, ""] for k in LOSSES]
    return {
        "cadei_table": tables.table(rows),
        "cadei_text": cell(trials["mse", "_text"].outcomes[0], "test/error"),
        "cadei_last": cell(last.outcomes[0], "test/error"),
        "cadei_draws_least": f"{min(draws):.4f}",
        "cadei_draws_most": f"{max(draws):.4f}",
        "cadei_inits": outcome_rows(
            [with_init("cadei_mse", init) for init in ("fan_out", "xavier", "standard")], ["test/error"]
        ),
        "cadei_lagging": lagging({f"{LOSSES[k]}, {variants[r]}": trials[k, r] for r in ("", "_scaled") for k in LOSSES}),
        "cadei_figures": drawn("cadei", ["loss", "regions"], losses, "the loss by epoch, and the decision regions")
        + "\n\n"
        + drawn("cadei_scaled", ["predictions"], [trials[k, "_scaled"] for k in LOSSES], "right and wrong predictions"),
        "cadei_grid": grid(
            "cadei_ce_scaled",
            "optimizer.SGD.lr=0.0003,0.001,0.003",
            "trainer.batch_size=25,50,100",
            "trainer.max_epochs=100,300",
        ),
    }


def lagging(trials: dict[str, Trial]) -> str:
    """Return the seeds whose test error is more than twice the median, the worst first, and their errors after 600 epochs."""
    rows = [["run", "median", "seeds above twice the median, with their test error", "the same after 600 epochs"]]
    for name, t in trials.items():
        o = t.outcomes[0]
        errors = o.metrics["test/error"]
        median = summarize(errors)["median"]
        worst = sorted((r for r, e in enumerate(errors) if e > 2 * median), key=lambda r: -errors[r])
        seeds, later = [o.seeds[r] for r in worst], ""
        if worst:
            again = run(t.name, f"trainer.replicas={len(worst)}", f"trainer.seeds={seeds}", "trainer.max_epochs=600")
            later = ", ".join(f"{s} ({e:.3f})" for s, e in zip(seeds, again.outcomes[0].metrics["test/error"], strict=True))
        words = ", ".join(f"{s} ({errors[r]:.3f})" for s, r in zip(seeds, worst, strict=True)) or "none"
        rows.append([name, tables.four_digits(median), words, later])
    return tables.table(rows)


def sun() -> Values:
    ours, text = run("sun", against="torch"), run("sun_text")
    exact = run("sun_text", "trainer.dtype=float64", "trainer.replicas=3", against="torch")
    reported = [["implementation", "train error, %", "test error, %", "milliseconds per run"]]
    for name, (ms, train, test) in SUN.items():
        reported.append([name, bare(train, 1), bare(test, 1), bare(ms, 0)])
    report_ms, pytorch_ms = (sum(ms) for ms, _, _ in SUN.values())
    table, alone, together = beside_torch(ours)
    return {
        "sun_theirs": tables.table(reported),
        "sun_ratio_theirs": f"{report_ms / pytorch_ms:.2f}",
        "sun_table": table,
        "sun_alone": f"{alone:.2f}",
        "sun_together": f"{together:.3f}",
        "sun_error": f"{100 * average(ours.outcomes[0], 'test/error'):.1f}",
        "sun_text_error": f"{100 * average(text.outcomes[0], 'test/error'):.1f}",
        "sun_exact": f"{max(o.difference for o in exact.outcomes if o.difference is not None):.1e}",
        "sun_chaos": chaos(),
        "sun_figures": drawn("sun", ["data", "error"], [ours], "the training points, and the error by epoch"),
    }


def chaos() -> str:
    """Return how a difference of one bit grows in report sun, in float64: to torch.nn, and to trainkit from moved weights."""
    rows = [["steps", "to torch.nn", "to itself, one bit off"]]
    for steps in (1, 10, 50, 100, 200):
        settings = ("trainer.dtype=float64", "trainer.replicas=1", f"trainer.max_steps={steps}")
        t = run("sun", *settings, against="torch")
        ends = []
        for moved in (False, True):
            parts = build(config("sun", *settings))
            parts.net.to(dtype=torch.float64)
            if moved:
                for p, _ in parts.net.param():
                    p.copy_(torch.nextafter(p, torch.full_like(p, math.inf)))
            timed_fit.train(parts, parts.data(), Clock(), quiet=True)
            ends.append(parts.net.state_dict())
        rows.append([str(steps), f"{t.outcomes[-1].difference:.1e}", f"{reference.max_difference(*ends):.1e}"])
    return tables.table(rows)


def bian() -> Values:
    table, alone, _ = beside_torch(run("bian", "trainer.replicas=5", "callbacks.early_stopping=null", against="torch"))
    return {
        "bian_table": outcome_rows([run(f"bian{k}") for k in ("", "_momentum", "_text")], ["train/error", "test/error"]),
        "bian_grid": grid(
            "bian",
            "optimizer.SGD.lr=0.03,0.1,0.3",
            "data.train=250,1000",
            "trainer.batch_size=10,50",
            "trainer.max_epochs=25,100",
        ),
        "bian_against": table,
        "bian_alone": f"{alone:.2f}",
    }


def bonatti() -> Values:
    text = [run(f"bonatti{k}_text") for k in ("", "_tanh", "_relu", "_leaky")]
    slopes = [
        run("bonatti_leaky_text", f"model[1].LeakyReLU={a}", "trainer.replicas=10", name=f"slope {a}")
        for a in (0.01, 0.1, 0.3, 0.5)
    ]
    slow = run("bonatti", "optimizer.SGD.lr=0.0001", "trainer.replicas=10")
    corrected = run("bonatti")
    return {
        "bonatti_table": outcome_rows([*text, corrected], ["train/loss", "test/loss"]),
        "bonatti_corrected": cell(corrected.outcomes[0], "test/loss"),
        "bonatti_slow": cell(slow.outcomes[0], "test/loss"),
        "bonatti_against": beside_torch(run("bonatti", "trainer.replicas=3", against="torch"))[0],
        "bonatti_slopes": outcome_rows(slopes, ["test/loss"]),
        "bonatti_figures": drawn(
            "bonatti", ["loss"], [text[0], corrected], "the loss by epoch, as written and corrected", log=True
        ),
    }


def bracone() -> Values:
    trials = {(act, k): run(f"bracone_{act}{k}") for k in ("", "_xavier") for act in ("tanh", "relu")}
    text = run("bracone_text")
    assert text.plane is not None
    label = text.plane.train.label
    assert label is not None

    def lower(kind: str) -> str:
        tanh, relu = (average(trials[act, kind].outcomes[0], "test/loss") for act in ("tanh", "relu"))
        return "tanh" if tanh < relu else "ReLU"

    both = [trials["tanh", ""], trials["relu", ""]]
    return {
        "bracone_table": outcome_rows([*trials.values(), text], ["train/loss", "test/loss", "test/error"]),
        "bracone_lower": lower(""),
        "bracone_xavier_lower": lower("_xavier"),
        "bracone_inside": f"{int(label.sum())} of {len(label)}",
        "bracone_figures": drawn("bracone", ["against"], both, "error and loss by epoch", log=True)
        + "\n\n"
        + drawn("bracone", ["predictions"], both, "right and wrong predictions of the median model"),
    }


def wishes() -> Values:
    return {
        "wishes_table": outcome_rows([run(p.stem) for p in sorted(CONF.glob("wished_*.yaml"))], ["val/error", "test/error"])
    }


REPORTS: tuple[Callable[[], Values], ...] = (cadei, sun, bian, bonatti, bracone, wishes)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("reports", nargs="*", help="cadei, sun, ...: run and print only these; default: run all, and write the page")
    chosen = p.parse_args().reports
    torch.set_num_threads(1)
    began = time.perf_counter()
    python, machine = platform.python_version(), platform.machine()
    values = {"environment": f"trainkit {__version__}, torch {torch.__version__}, Python {python}, {machine}, CPU, one thread."}
    for report in REPORTS:
        if not chosen or report.__name__ in chosen:
            print(report.__name__, file=sys.stderr)
            values |= report()
    if chosen:
        print("\n\n".join(f"{name}:\n{value}" for name, value in values.items()))
        return
    template = Path(__file__).with_name("reports.md.in").read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"\{(\w+)\}", lambda m: values[m[1]], template), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
