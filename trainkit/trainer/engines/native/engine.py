"""Steps in generated C++: the engine `native`."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.library_cache import library
from trainkit.nn.losses import Loss
from trainkit.trainer.engines.multi_step import MultiStepEngine

from .compiler import FLAGS, PACKAGE, compile_library, compiler
from .source import source

ALIGN = 64  # bytes


class NativeEngine(MultiStepEngine):
    """Generated C++ for many steps: compiled in about a second, and loaded from the cache by the next process.

    Raises UserError where a module, the loss or the optimizer has no C++ pair, and without a C++ compiler.
    """

    adjective = "native"
    loss: Loss

    def build(self, order: Tensor) -> None:
        features = self.x.shape[1:].numel()
        text = source(self.net, self.loss, self.optimizer, self.size, features, self.x.dtype)
        path = library(library_key(text), lambda folder: compile_library(text, folder))
        loaded = ctypes.CDLL(str(path))
        loaded.model_bytes.restype = ctypes.c_long
        replicas = self.replicas[0] if self.replicas else 1
        self.threads = min(torch.get_num_threads(), replicas)
        self.models = torch.empty(self.threads * loaded.model_bytes() + ALIGN, dtype=torch.uint8)
        self.call: Any = loaded.steps
        pointer, number = ctypes.c_void_p, ctypes.c_long
        self.call.argtypes = [pointer, number, *[pointer] * 6, *[number] * 4]
        self.call.restype = None

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        state = self.optimizer.state()
        pointers = (ctypes.c_void_p * len(state))(*(s.data_ptr() for s in state))
        memory = -(-self.models.data_ptr() // ALIGN) * ALIGN
        tensors = self.x, self.t, order, self.table, self.losses
        replicas = self.replicas[0] if self.replicas else 1
        self.call(
            memory, self.threads, pointers, *(v.data_ptr() for v in tensors), first, count, replicas, order.shape[-1]
        )
        return self.losses[:count]


def library_key(text: str) -> tuple[Any, ...]:
    """Return all that the library depends on: the source with its headers, the flags, the compiler and the processor."""
    headers = [p.read_text(encoding="utf-8") for p in sorted(Path(PACKAGE).rglob("*.h"))]
    return text, headers, FLAGS, compiler(), processor()


def processor() -> str:
    """Return what identifies the processor's instructions, for `-march=native`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def check_supported(x: Any, device: torch.device) -> None:
    """Raise UserError where native steps cannot be used."""
    if device.type != "cpu":
        raise UserError("native steps run on a CPU")
