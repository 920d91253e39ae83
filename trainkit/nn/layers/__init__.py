"""Layers, one family per file, each with `bwd` directly under `fwd`.

To add a layer: write it in the file of its family, and list its name here, in `trainkit/nn/__init__.py` and in `_PUBLIC` of
`trainkit/__init__.py`; `python tests/public/stubs.py` writes the stub. The tests then ask for an example each: of its shapes
(tests/nn/test_contract.py), of torch's layer (tests/nn/test_against_torch.py, trainkit/interop/torch_nn.py), and of its use
(tests/public/test_types.py).
"""

from .activation import ELU as ELU
from .activation import GELU as GELU
from .activation import Identity as Identity
from .activation import LeakyReLU as LeakyReLU
from .activation import LogSoftmax as LogSoftmax
from .activation import ReLU as ReLU
from .activation import Sigmoid as Sigmoid
from .activation import SiLU as SiLU
from .activation import Softmax as Softmax
from .activation import Softplus as Softplus
from .activation import Tanh as Tanh
from .container import Container as Container
from .container import Parallel as Parallel
from .container import Recompute as Recompute
from .container import Residual as Residual
from .container import Sequential as Sequential
from .dropout import Dropout as Dropout
from .embedding import EmbedColumns as EmbedColumns
from .linear import Linear as Linear
from .merge import Add as Add
from .merge import Concat as Concat
from .merge import FanOut as FanOut
from .reshape import Flatten as Flatten
