"""Optimizers over one flat buffer of parameters and one of gradients, and learning-rate schedules.

from trainkit.optim import SGD

optimizer = SGD(net.param(), lr=0.1, momentum=0.9)
"""

from .adaptive import Adagrad as Adagrad
from .adaptive import Adam as Adam
from .adaptive import AdamW as AdamW
from .adaptive import RMSprop as RMSprop
from .optimizer import Optimizer as Optimizer
from .sgd import SGD as SGD
from .sgd import SignSGD as SignSGD
