"""Published results on tables, beside ours and scikit-learn's: `python benchmarks/tables.py` writes docs/tables.md.

conf/adult.yaml and conf/california.yaml are trained with fifteen seeds at once and, before and after, with one seed alone, so
that both are timed in the same minutes. scikit-learn gets the same rows. One thread is used, so that the times do not depend on
the number of cores. The text is in tables.md.in.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import accuracy_score, root_mean_squared_error
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer
from threadpoolctl import threadpool_limits

from trainkit.app.config.build import build
from trainkit.app.config.files import compose, resolve
from trainkit.data.dataset import Dataset

ROOT = Path(__file__).parents[1]
PAGE, TEXT = ROOT / "docs" / "tables.md", ROOT / "benchmarks" / "tables.md.in"
OFF = ("progress_bar", "tensorboard", "csv_logger", "checkpoint")
QUIET = ("trainer.threads=1", *(f"callbacks.{name}=null" for name in OFF))


@dataclass
class Contender:
    """A row: the test scores of several seeds, and the seconds of a training of all of them."""

    name: str
    scores: Sequence[float]
    seconds: float | None = None

    def row(self) -> str:
        mean, std = statistics.mean(self.scores), statistics.stdev(self.scores) if len(self.scores) > 1 else None
        spread = f"{mean:.4f}" + (f" ± {std:.4f}" if std is not None else "")
        return f"| {self.name} | {spread} | {len(self.scores)} | {'' if self.seconds is None else f'{self.seconds:.1f}'} |"


def ours(conf: str, metric: str, *overrides: str) -> tuple[list[float], float, int]:
    """Return the test metric of each seed, the seconds of the fit, and the epochs that the longest seed took."""
    parts = build(resolve(compose([ROOT / "conf" / f"{conf}.yaml"], [*QUIET, *overrides])))
    data, trainer = parts.data(), parts.trainer()
    began = time.perf_counter()
    trainer.fit(parts.net, parts.loss, parts.optimizer(parts.net), data)
    seconds = time.perf_counter() - began
    value = trainer.test()[f"test/{metric}"]
    return value if isinstance(value, list) else [value], seconds, len(trainer.history)


def theirs(
    make: Callable[[int], Any], data: Dataset, score: Callable[[Any, Any], float], seeds: int
) -> tuple[list[float], float]:
    """Return the test score of each seed, and the seconds of all fits.

    Rows are those of `data`, unscaled: training and validation together, since the models split off their own validation rows.
    """
    parts = {name: (np.asarray(s.x[:]), np.asarray(s.t).reshape(-1)) for name, s in data.parts().items()}
    x_test, t_test = parts.pop("test")
    x, t = (np.concatenate(arrays) for arrays in zip(*parts.values(), strict=True))
    models = [make(seed) for seed in range(seeds)]
    began = time.perf_counter()
    for model in models:
        model.fit(x, t)
    seconds = time.perf_counter() - began
    return [float(score(t_test, model.predict(x_test))) for model in models], seconds


def scikit_learn(data: Dataset, units: tuple[int, ...], seeds: int) -> list[Contender]:
    """Return scikit-learn's MLP, with the inputs and the early stopping of ours, and its boosted trees."""
    numbers = [i for i, k in enumerate(data.categories or [0] * data.train.x.shape[1]) if not k]
    codes = [i for i, k in enumerate(data.categories) if k]
    scale = QuantileTransformer(n_quantiles=1000, output_distribution="normal", subsample=None)
    classes = data.classes is not None
    net = {"hidden_layer_sizes": units, "batch_size": 256, "early_stopping": True, "validation_fraction": 0.2}
    net |= {"learning_rate_init": 0.002, "n_iter_no_change": 16, "max_iter": 400}

    def mlp(seed: int) -> Any:
        columns = make_column_transformer((scale, numbers), (OneHotEncoder(handle_unknown="ignore"), codes))
        return make_pipeline(columns, (MLPClassifier if classes else MLPRegressor)(**net, random_state=seed))

    def trees(seed: int) -> Any:
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        return kind(categorical_features=codes or None, random_state=seed)

    score = accuracy_score if classes else root_mean_squared_error
    name = "Classifier" if classes else "Regressor"
    made = {f"scikit-learn MLP{name}, the same units": mlp, f"scikit-learn HistGradientBoosting{name}, its defaults": trees}
    return [Contender(label, *theirs(make, data, score, seeds)) for label, make in made.items()]


def table(conf: str, metric: str, units: tuple[int, ...], seeds: int, others: int) -> tuple[str, str]:
    """Return the rows of a data set, and a sentence on the cost of the seeds."""
    first = ours(conf, metric, "trainer.replicas=1")
    together = ours(conf, metric, f"trainer.replicas={seeds}")
    last = ours(conf, metric, "trainer.replicas=1", f"seed={seeds - 1}")
    data = build(resolve(compose([ROOT / "conf" / f"{conf}.yaml"], QUIET))).data()
    rows = [
        Contender(f"trainkit, conf/{conf}.yaml, {seeds} seeds as replicas", *together[:2]),
        Contender("trainkit, one seed alone (twice)", [*first[0], *last[0]], (first[1] + last[1]) / 2),
        *scikit_learn(data, units, others),
    ]
    alone, each = (first[1] + last[1]) / 2, (first[1] / first[2] + last[1] / last[2]) / 2
    cost = (
        f"{seeds} seeds at once took {together[1] / alone:.1f} times as long as one alone, and an epoch"
        f" {together[1] / together[2] / each:.1f} times: {together[2]} epochs until the last seed stopped, {first[2]} and"
        f" {last[2]} epochs alone."
    )
    return "\n".join(c.row() for c in rows), fill(cost, 100)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--seeds", type=int, default=15, help="replicas of trainkit")
    p.add_argument("--others", type=int, default=3, help="seeds of scikit-learn's models")
    p.add_argument("--print", action="store_true", help="print the page and leave docs/tables.md alone")
    args = p.parse_args()
    warnings.simplefilter("ignore")  # scikit-learn: not converged after max_iter
    if missing := [name for name in ("adult", "california") if not (ROOT / ".data" / f"{name}.csv").exists()]:
        raise SystemExit(f"no .data/{missing[0]}.csv: make {missing[0]}")
    os.chdir(ROOT)  # the configurations name .data/
    with threadpool_limits(1):
        text = page(args.seeds, args.others)
    if args.print:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")


def page(seeds: int, others: int) -> str:
    """Return the page. seeds: of trainkit; others: of scikit-learn's models."""
    text = TEXT.read_text(encoding="utf-8")
    for conf, metric, units in (("adult", "accuracy", (32,)), ("california", "rmse", (128, 128, 128))):
        rows, cost = table(conf, metric, units, seeds, others)
        text = text.replace(f"{{{conf}}}", rows).replace(f"{{{conf} cost}}", cost)
    environment = f"torch {version('torch')}, scikit-learn {version('scikit-learn')}, Python {platform.python_version()}"
    return text.replace("{environment}", f"{environment}, float32, {platform.machine()}, one thread")


if __name__ == "__main__":
    main()
