"""scikit-learn's MLPClassifier. It draws its own first weights."""

from __future__ import annotations

import warnings

from sklearn.neural_network import MLPClassifier
from task import MOMENTUM, Result, Stopwatch, Task


def fit(task: Task, epochs: int) -> Result:
    warnings.simplefilter("ignore")  # that it has not converged
    net = MLPClassifier(
        task.sizes[1:-1],
        solver=task.rule,
        alpha=0.0,
        batch_size=task.batch,
        learning_rate_init=task.lr,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        max_iter=epochs,
        tol=0.0,
        n_iter_no_change=10**6,
    )
    x, t = (v.numpy() for v in task.train())
    with Stopwatch() as watch:
        net.fit(x, t)
    return task.result(watch, epochs, lambda x: net.predict(x.numpy()))
