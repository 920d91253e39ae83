"""Learning-rate schedules as pure functions of k, the number of updates of the schedule so far.

`schedule.rate(k, base)` is the rate after k updates in a run whose configured rate is `base`. Updates are epochs or steps, as
the caller counts them. A resumed run needs only its k, so that nothing is stored or repeated.
Only ReduceLROnPlateau depends on a metric.

Names, arguments, defaults and values are those of torch.optim.lr_scheduler (2.13). In the formulas, lr_k is the rate after k
updates. A rate that is too large for a float is infinite, which the caller reports as an error.
"""

from __future__ import annotations

from typing import Any

from .base import Schedule as Schedule
from .base import warm_up as warm_up
from .composed import ChainedScheduler as ChainedScheduler
from .composed import SequentialLR as SequentialLR
from .formulas import ConstantLR as ConstantLR
from .formulas import CosineAnnealingLR as CosineAnnealingLR
from .formulas import CosineAnnealingWarmRestarts as CosineAnnealingWarmRestarts
from .formulas import CyclicLR as CyclicLR
from .formulas import ExponentialLR as ExponentialLR
from .formulas import LambdaLR as LambdaLR
from .formulas import LinearLR as LinearLR
from .formulas import MultiplicativeLR as MultiplicativeLR
from .formulas import MultiStepLR as MultiStepLR
from .formulas import OneCycleLR as OneCycleLR
from .formulas import PolynomialLR as PolynomialLR
from .formulas import StepLR as StepLR
from .plateau import Plateau as Plateau
from .plateau import ReduceLROnPlateau as ReduceLROnPlateau

SCHEDULES: dict[str, type[Any]] = {
    c.__name__: c
    for c in (
        StepLR,
        MultiStepLR,
        ConstantLR,
        LinearLR,
        ExponentialLR,
        PolynomialLR,
        CosineAnnealingLR,
        CosineAnnealingWarmRestarts,
        CyclicLR,
        OneCycleLR,
        ReduceLROnPlateau,
        SequentialLR,
        ChainedScheduler,
        LambdaLR,
        MultiplicativeLR,
    )
}
SCHEDULERS = tuple(SCHEDULES)
