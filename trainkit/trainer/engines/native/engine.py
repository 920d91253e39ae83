"""Steps in generated C++: the engine `native`."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.library_cache import is_kept, library
from trainkit.nn.module import Module
from trainkit.trainer.engines.multi_step import MAX_STEPS, MultiStepEngine
from trainkit.trainer.engines.step import Clip, Gradient

from .compiler import FLAGS, PACKAGE, compile_library, compiler
from .source import Steps, steps_source

if TYPE_CHECKING:
    from trainkit.trainer.session import Session

ALIGN = 64  # bytes


class Call(ctypes.Structure):
    """The arguments of a call, as in steps.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("state", "x", "t", "weight", "order", "table", "masks", "losses")),
        *((name, ctypes.c_long) for name in ("begin", "size", "count", "replicas", "samples", "is_first")),
    ]


class NativeEngine(MultiStepEngine):
    """Generated C++ for many steps: compiled in about a second, and loaded from the cache by the next process.

    Raises UserError where a module, the loss or the optimizer has no C++ pair, and without a C++ compiler.
    """

    name = "native"
    adjective = "native"
    takes_every_step = True

    def __init__(self, session: Session, gradient_of: Callable[[Module], Gradient], clip: Clip | None) -> None:
        """Build and check the steps of a session. gradient_of, clip: as for `MultiStepEngine`."""
        self.is_stopped = lambda: session.signal is not None
        self.source, self.parts, self.threads = session_source(session), session.settings.accumulate, session.max_threads
        super().__init__(session.net, session.optimizer, gradient_of, clip, session.data.train, session.step_size)

    def build(self, order: Tensor) -> None:
        self.x, self.t = self.x.contiguous(), self.t.contiguous()
        self.weight = None if self.weight is None else self.weight.contiguous()
        rows = -(-self.size // self.parts)
        path = library(library_key(self.source), lambda folder: compile_library(self.source.text, folder, self.is_stopped))
        loaded = ctypes.CDLL(str(path))
        loaded.team_bytes.restype = loaded.shares.restype = ctypes.c_long
        replicas = self.replicas[0] if self.replicas else 1
        self.threads = min(self.threads, replicas if replicas > 1 else loaded.shares())
        teams = self.threads if replicas > 1 else 1
        self.memory = torch.empty(teams * loaded.team_bytes() + ALIGN, dtype=torch.uint8)
        self.models = -(-self.memory.data_ptr() // ALIGN) * ALIGN
        loaded.create.argtypes, loaded.create.restype = [ctypes.c_void_p, ctypes.c_long], None
        loaded.create(self.models, teams)
        self.masks = [self.x.new_empty(MAX_STEPS, self.parts, replicas, rows, width) for _, width in self.source.dropouts]
        self.steps: Any = loaded.steps
        self.steps.argtypes, self.steps.restype = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p], None
        self.mask_addresses = addresses(self.masks)
        self.call = Call(
            x=self.x.data_ptr(),
            t=self.t.data_ptr(),
            weight=None if self.weight is None else self.weight.data_ptr(),
            table=self.table.data_ptr(),
            masks=ctypes.addressof(self.mask_addresses),
            losses=self.losses.data_ptr(),
            replicas=replicas,
        )

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        return self._run(order, first, count, self.size)

    def rest(self, order: Tensor, first: int) -> Tensor:
        """Take the step of an epoch's last, smaller batch, number `first`, and return its loss, (1,) or (1, r)."""
        self.fill_table(1)
        return self._run(order, first, 1, order.shape[-1] - first * self.size)

    def _run(self, order: Tensor, first: int, count: int, size: int) -> Tensor:
        self._draw_masks(count, size)
        order, state, call = order.contiguous(), addresses(self.optimizer.state()), self.call
        call.state, call.order, call.samples = ctypes.addressof(state), order.data_ptr(), order.shape[-1]
        call.begin, call.size, call.count = first * self.size, size, count
        call.is_first = self.optimizer.t == count  # the updates are counted already
        self.steps(self.models, self.threads, ctypes.byref(call))
        return self.losses[:count].clone()  # the next call writes into the same place

    def _draw_masks(self, count: int, size: int) -> None:
        """Draw the masks of the next steps, of `size` samples each, in the order of eager steps."""
        most = -(-size // self.parts)
        for k in range(count if self.masks else 0):
            for part, begin in enumerate(range(0, size, most)):
                for (module, _), masks in zip(self.source.dropouts, self.masks, strict=True):
                    own = masks[k, part] if self.replicas else masks[k, part, 0]
                    own = own.narrow(own.dim() - 2, 0, min(most, size - begin))
                    own.copy_(module.draw_mask(own))


def addresses(tensors: Sequence[Tensor]) -> Any:
    """Return the addresses of tensors as an array of C, of which the caller keeps a reference while it is in use."""
    return (ctypes.c_void_p * max(1, len(tensors)))(*(t.data_ptr() for t in tensors))


def session_source(session: Session) -> Steps:
    """Return the source of a session's steps. Raises UserError where they have no C++ code."""
    if session.device.type != "cpu":
        raise UserError(f"native steps run on a CPU, not on {session.device}")
    settings, split = session.settings, session.data.train
    assert isinstance(split.x, Tensor)  # not MappedRows
    rows, limits = -(-session.step_size // settings.accumulate), (settings.clip_norm, settings.clip_value)
    return steps_source(session.net, session.loss, session.optimizer, rows, settings.accumulate, split.x, split.t, *limits)


def is_compiled(source: Steps) -> bool:
    """Return whether the library of a source is in the cache."""
    return is_kept(library_key(source))


def library_key(source: Steps) -> tuple[Any, ...]:
    """Return all that the library depends on: the source with its headers, the flags, the compiler and the processor."""
    headers = [p.read_text(encoding="utf-8") for p in sorted(Path(PACKAGE).rglob("*.h"))]
    return source.text, headers, FLAGS, compiler(), processor()


def processor() -> str:
    """Return what identifies the processor's instructions, for `-march=native`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
