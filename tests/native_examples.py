"""The examples of the contract of the C++ pairs (`nn/test_native_pairs.py`): modules, losses and optimizers, with their sizes.

Sizes are those at which the code differs: less than a vector, whole vectors, several, and so many that a product takes them in
parts. Losses also take fewer rows than a buffer holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from native_pairs import Case

from trainkit.nn import losses
from trainkit.nn.layers import activation, dropout, embedding, linear
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, SignSGD

shapes = itertools.cycle([(1, 16), (2, 8), (7, 3), (50, 1), (7, 130)])  # rows and features: at least 16 numbers


def elementwise(*builds: Callable[[], Module]) -> list[Case]:
    return [Case(build, *next(shapes)) for build in builds for _ in range(2)]


MODULES: dict[type[Module], list[Case]] = {
    linear.Linear: [
        Case(lambda n=n, m=m, bias=bias: linear.Linear(n, m, bias), rows, n)
        for rows, n, m, bias in [
            (1, 1, 1, True),
            (2, 3, 2, False),
            (7, 5, 16, True),
            (50, 25, 25, True),
            (50, 2, 25, False),
            (7, 17, 33, True),
            (7, 64, 8, True),
            (2, 300, 130, True),  # from 130 on in several parts
            (1, 130, 33, False),
        ]
    ],
    embedding.EmbedColumns: [
        Case(lambda: embedding.EmbedColumns([4, 3], 2), 7, 5),
        Case(lambda: embedding.EmbedColumns([2], 17), 50, 1),
    ],
    activation.ReLU: elementwise(activation.ReLU),
    activation.LeakyReLU: elementwise(lambda: activation.LeakyReLU(0.3)),
    activation.Tanh: elementwise(activation.Tanh),
    activation.Sigmoid: elementwise(activation.Sigmoid),
    activation.ELU: elementwise(lambda: activation.ELU(0.7)),
    activation.GELU: elementwise(activation.GELU, lambda: activation.GELU("tanh")),
    activation.SiLU: elementwise(activation.SiLU),
    activation.Softplus: elementwise(activation.Softplus, lambda: activation.Softplus(-0.5, 1000.0)),
    activation.Softmax: [Case(activation.Softmax, 7, 5), Case(activation.Softmax, 2, 17)],
    activation.LogSoftmax: [Case(activation.LogSoftmax, 7, 5), Case(activation.LogSoftmax, 2, 17)],
    dropout.Dropout: [Case(lambda: dropout.Dropout(0.4), 7, 5), Case(lambda: dropout.Dropout(0.4), 2, 17)],
}


def of_loss(target: str, cls: type[Loss], kinds: slice = slice(None), **options: Any) -> list[Case]:
    """Return cases of a loss: both reductions, without and with weights of the samples; only some `kinds` of these four."""
    sizes = [(7, 7), (50, 43), (1, 1), (7, 2)]  # the rows of a buffer, and those that count
    return [
        Case(lambda reduction=reduction: cls(reduction, **options), rows, 5, target, count, weighted)
        for (rows, count), (reduction, weighted) in list(zip(sizes, KINDS, strict=True))[kinds]
    ]


KINDS = list(itertools.product(("mean", "sum"), (False, True)))
MEAN, MIXED = slice(0, 2), slice(1, 3)
CE, W = losses.CrossEntropyLoss, [0.1, 0.0, 0.3, 0.7, 2.0]
LOSSES: dict[type[Loss], list[Case]] = {
    losses.MSELoss: of_loss("real", losses.MSELoss),
    losses.L1Loss: of_loss("real", losses.L1Loss),
    losses.HuberLoss: [*of_loss("real", losses.HuberLoss), *of_loss("real", losses.HuberLoss, MIXED, delta=0.4)],
    losses.NLLLoss: [*of_loss("index", losses.NLLLoss), *of_loss("index", losses.NLLLoss, MEAN, weight=W, ignore_index=1)],
    CE: [
        *of_loss("index", CE),
        *of_loss("index", CE, MIXED, weight=W),
        *of_loss("index", CE, MEAN, label_smoothing=0.1, ignore_index=3),
        *of_loss("index", CE, MEAN, weight=W, label_smoothing=0.2, ignore_index=-7),
        Case(CE, 7, 33, "index", 7),
        *of_loss("probabilities", CE),
        *of_loss("probabilities", CE, MIXED, weight=W, label_smoothing=0.2),
    ],
    losses.BCELoss: [*of_loss("binary", losses.BCELoss), *of_loss("binary", losses.BCELoss, MIXED, weight=W)],
    losses.BCEWithLogitsLoss: [
        *of_loss("binary", losses.BCEWithLogitsLoss),
        *of_loss("binary", losses.BCEWithLogitsLoss, MIXED, weight=W, pos_weight=[0.3, 1.0, 2.0, 5.0, 0.5]),
    ],
}


def all_of(cls: type[Optimizer], **flags: tuple[Any, ...]) -> list[Case]:
    """Return a case for each combination of the values of the flags."""
    return [
        Case(lambda p, values=values: cls(p, lr=0.01, **dict(zip(flags, values, strict=True))))
        for values in itertools.product(*flags.values())
    ]


BOTH, DECAYS = (False, True), (0.0, 0.1)
OPTIMIZERS: dict[type[Optimizer], list[Case]] = {
    SGD: [
        *all_of(SGD, momentum=(0.0,), weight_decay=DECAYS, maximize=BOTH),
        *all_of(SGD, momentum=(0.9,), weight_decay=DECAYS, maximize=BOTH, nesterov=BOTH),
        *all_of(SGD, momentum=(0.9,), dampening=(0.3,)),
    ],
    SignSGD: all_of(SignSGD, momentum=(0.0, 0.9), weight_decay=DECAYS, maximize=BOTH),
    Adam: all_of(Adam, amsgrad=BOTH, weight_decay=DECAYS, maximize=BOTH),
    AdamW: all_of(AdamW, amsgrad=BOTH, weight_decay=DECAYS, maximize=BOTH),
    RMSprop: all_of(RMSprop, centered=BOTH, momentum=(0.0, 0.9), weight_decay=DECAYS, maximize=BOTH),
    Adagrad: all_of(Adagrad, lr_decay=(0.1,), initial_accumulator_value=(0.2,), weight_decay=DECAYS, maximize=BOTH),
}
CASES = [case for part in (MODULES, LOSSES, OPTIMIZERS) for cases in part.values() for case in cases]
