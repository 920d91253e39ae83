"""The trainer: the loop, what callbacks may do, the state of a run and how it is saved, and the engines that take the steps."""

from .callback import Callback as Callback
from .trainer import Trainer as Trainer
