"""Train small and medium nets fast and exactly, with every derivative written by hand.

A module is a pure pair, `y, saved = fwd(x)` and `dx = bwd(saved, dy)`. Parameters are views of one flat buffer. One step
function trains them, a short loop calls the step, and everything else is a callback.

The names below are the public interface; nothing else is promised. They are imported on first use, so that
`python -m trainkit --help` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "nn": [
        "Add",
        "BCELoss",
        "BCEWithLogitsLoss",
        "Concat",
        "CrossEntropyLoss",
        "Dropout",
        "ELU",
        "EmbedColumns",
        "FanOut",
        "Flatten",
        "GELU",
        "HuberLoss",
        "Identity",
        "L1Loss",
        "LeakyReLU",
        "Linear",
        "LogSoftmax",
        "Loss",
        "MSELoss",
        "Module",
        "NLLLoss",
        "Parallel",
        "ReLU",
        "Recompute",
        "Residual",
        "Sequential",
        "SiLU",
        "Sigmoid",
        "Softmax",
        "Softplus",
        "Tanh",
    ],
    "nn.gradcheck": ["gradcheck"],
    "optim": ["Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "SGD", "SignSGD"],
    "data": ["Dataset", "Split", "csv", "disk", "idx", "image_folder", "npy", "parquet", "samples", "table", "tensors"],
    "trainer": ["Callback", "Session", "Trainer"],
    "app.experiment": ["Experiment", "load"],
    "callbacks": [
        "CSVLogger",
        "Checkpoint",
        "EarlyStopping",
        "GradientNorms",
        "LRScheduler",
        "ProgressBar",
        "TensorBoard",
        "TerminateOnNaN",
        "Timer",
        "ValidationSplit",
    ],
    "core.errors": ["UserError"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'trainkit' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
