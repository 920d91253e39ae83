"""Losses are pure pairs, `value, saved = fwd(y, t)` and `dy = bwd(saved)`; y is the net's output, t the target. Sample weights
are a third argument of `fwd` (see `Loss`).

`reduction` is the mean or sum over all axes except the replica axis; value is a scalar, or (r,) with replicas.
Names and conventions are torch's.
"""

from .base import Loss as Loss
from .binary import BCELoss as BCELoss
from .binary import BCEWithLogitsLoss as BCEWithLogitsLoss
from .classification import CrossEntropyLoss as CrossEntropyLoss
from .classification import NLLLoss as NLLLoss
from .regression import HuberLoss as HuberLoss
from .regression import L1Loss as L1Loss
from .regression import MSELoss as MSELoss
