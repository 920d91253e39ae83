"""The losses, under the name that imports have so far."""

from .losses import BCELoss as BCELoss
from .losses import BCEWithLogitsLoss as BCEWithLogitsLoss
from .losses import CrossEntropyLoss as CrossEntropyLoss
from .losses import HuberLoss as HuberLoss
from .losses import L1Loss as L1Loss
from .losses import Loss as Loss
from .losses import MSELoss as MSELoss
from .losses import NLLLoss as NLLLoss
