"""Modules and losses, each a pure pair `y, saved = fwd(x)` and `dx = bwd(saved, dy)` written by hand.

    from trainkit.nn import CrossEntropyLoss, Linear, ReLU, Sequential

    net = Sequential(Linear(2, 25), ReLU(), Linear(25, 2))

`module` defines the contract, `layers` and `losses` implement it, and `gradcheck` tests it against finite differences.
"""

from .layers import ELU as ELU
from .layers import GELU as GELU
from .layers import Add as Add
from .layers import Concat as Concat
from .layers import Container as Container
from .layers import Dropout as Dropout
from .layers import EmbedColumns as EmbedColumns
from .layers import FanOut as FanOut
from .layers import Flatten as Flatten
from .layers import Identity as Identity
from .layers import LeakyReLU as LeakyReLU
from .layers import Linear as Linear
from .layers import LogSoftmax as LogSoftmax
from .layers import Parallel as Parallel
from .layers import Recompute as Recompute
from .layers import ReLU as ReLU
from .layers import Residual as Residual
from .layers import Sequential as Sequential
from .layers import Sigmoid as Sigmoid
from .layers import SiLU as SiLU
from .layers import Softmax as Softmax
from .layers import Softplus as Softplus
from .layers import Tanh as Tanh
from .losses import BCELoss as BCELoss
from .losses import BCEWithLogitsLoss as BCEWithLogitsLoss
from .losses import CrossEntropyLoss as CrossEntropyLoss
from .losses import HuberLoss as HuberLoss
from .losses import L1Loss as L1Loss
from .losses import Loss as Loss
from .losses import MSELoss as MSELoss
from .losses import NLLLoss as NLLLoss
from .module import Module as Module
