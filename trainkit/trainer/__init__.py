"""The trainer: the loop, the callbacks' hooks, the state of a run and how it is saved, and the engines that take the steps."""

from .callback import Callback as Callback
from .session import Session as Session
from .trainer import Trainer as Trainer
