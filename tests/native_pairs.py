"""C++ pairs called alone: all cases of a dtype are compiled into one library, in which each case has its own functions.

Buffers have padded rows as in the engine, and guards around them. The guards are NaN, so that a number read from there would
be seen in the result, with a bit pattern that nothing writes.
"""

from __future__ import annotations

import copy
import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainkit.core.library_cache import library
from trainkit.nn.layers import Dropout
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer
from trainkit.trainer.engines.native.compiler import compile_library
from trainkit.trainer.engines.native.engine import addresses, library_key
from trainkit.trainer.engines.native.source import PACKAGE, TYPES, Steps, header_of

Named = dict[str, Tensor]  # results by name
GUARD = 64  # numbers on each side of a buffer

PADDING = """
extern "C" int padded(int n) { return pad(n); }
extern "C" int vector() { return VECTOR_BYTES / sizeof(T); }
"""
MODULE = """
namespace c@ { constexpr int N = %d; static %s }
extern "C" void fwd@(T* p, T* g, const T* mask, const T* x, T* y) { auto& m = c@::m; %s m.fwd(x, y); }
extern "C" void bwd@(const T* saved, const T* dy, T* dx) { c@::m.bwd(saved, dy, dx); }
"""
LOSS = """
namespace c@ { constexpr int N = %d; static %s }
extern "C" double loss@(int rows, const T* y, const void* t, const T* weight, T* dy) {
  using Target = decltype(c@::m)::Target;
  const Target* own = static_cast<const Target*>(t);
  const double count = c@::m.count(rows, own, weight);
  const double sum = c@::m.sum(rows, y, own, weight, T(count == 0 ? 0 : 1 / count), dy);
  return count == 0 ? NAN : sum / count;
}
"""
OPTIMIZER = """
namespace c@ { static %s }
extern "C" void update@(T* p, const T* g, T* const* slots, int n, const double* row, bool first) {
  c@::m.update(p, g, slots, n, row, first);
}
"""


@dataclass(frozen=True, eq=False)
class Case:
    """What is built, for rows of `features` numbers; the C++ pair takes `rows` of them."""

    build: Callable[..., Any]
    rows: int = 0
    features: int = 0
    target: str = ""  # of a loss: index, real or binary
    count: int = 0  # the rows that a loss takes, if fewer
    weighted: bool = False  # whether the samples have weights

    def __str__(self) -> str:
        weights = " weighted" if self.weighted else ""
        return f"{self.count or self.rows} of {self.rows} rows of {self.features}{weights}" if self.rows else ""


class Library:
    """The functions of the cases in one dtype."""

    def __init__(self, cases: Sequence[Case], dtype: torch.dtype) -> None:
        self.dtype, self.numbers = dtype, {case: i for i, case in enumerate(cases)}
        things = [made(case, dtype) for case in cases]
        headers = sorted({str(header_of(type(thing)).relative_to(PACKAGE)) for thing in things})
        text = f"using T = {TYPES[dtype]};\n" + "".join(f'#include "{h}"\n' for h in headers) + PADDING
        for i, (case, thing) in enumerate(zip(cases, things, strict=True)):
            text += code_of(case, thing).replace("@", str(i))
        path = library(library_key(Steps(text, [])), lambda folder: compile_library(text, folder))
        self.loaded = ctypes.CDLL(str(path))

    def call(self, name: str, case: Case, *arguments: Any) -> float:
        function = getattr(self.loaded, f"{name}{self.numbers[case]}")
        function.restype = ctypes.c_double if name == "loss" else None
        words = [ctypes.c_void_p(a.address) if isinstance(a, Buffer) else a for a in arguments]
        result = function(*words)
        for a in arguments:
            if isinstance(a, Buffer):
                assert a.is_guarded(), "a number beside a buffer was written"
        return result

    def rows(self, t: Tensor) -> Tensor:
        """Return rows as the C++ code holds them: padded with 0."""
        t = t.reshape(-1, t.shape[-1])
        return torch.nn.functional.pad(t, (0, self.loaded.padded(t.shape[1]) - t.shape[1]))

    def flat(self, t: Tensor) -> Tensor:
        """Return t filled up with 0 to whole vectors."""
        return torch.nn.functional.pad(t.flatten(), (0, -t.numel() % self.loaded.vector()))


class Buffer:
    """A copy of numbers, between guards."""

    def __init__(self, t: Tensor) -> None:
        whole = torch.empty(t.numel() + 2 * GUARD, dtype=t.dtype)
        self.bits = whole.view(torch.int32 if t.element_size() == 4 else torch.int64)
        self.pattern = 0x7FC12345 if t.element_size() == 4 else 0x7FF8123456789ABC
        self.bits.fill_(self.pattern)
        self.t = whole[GUARD:-GUARD].view(t.shape).copy_(t)
        self.address = self.t.data_ptr()

    def is_guarded(self) -> bool:
        return bool((self.bits[:GUARD] == self.pattern).all() and (self.bits[-GUARD:] == self.pattern).all())


def made(case: Case, dtype: torch.dtype) -> Any:
    """Build a case's module, loss or optimizer."""
    torch.manual_seed(1)
    if case.rows == 0:
        return case.build(
            [
                (torch.randn(5, 7).to(dtype), torch.zeros(5, 7, dtype=dtype)),
                (torch.randn(6).to(dtype), torch.zeros(6, dtype=dtype)),
            ]
        )
    thing = case.build()
    if isinstance(thing, Dropout):
        thing.generators = (torch.Generator(),)
    return thing.to(dtype=dtype) if isinstance(thing, Module) else thing


def code_of(case: Case, thing: Module | Loss | Optimizer) -> str:
    """Return the functions of a case; `@` is its number."""
    if isinstance(thing, Optimizer):
        declaration = thing.native()
        assert declaration is not None
        return OPTIMIZER % declaration.replace("@", "m")
    if isinstance(thing, Loss):
        declaration = thing.native(case.features, torch.zeros(1, dtype=torch.int64 if case.target == "index" else None))
        assert declaration is not None
        return LOSS % (case.rows, declaration.replace("@", "m"))
    pair = thing.native(case.features)
    assert pair is not None
    bind = "m.mask = mask;" if isinstance(thing, Dropout) else ""
    if thing.param():  # what is derived from the parameters is computed in two shares
        bind = "static T derived[m.derived + 1]; m.bind(p, g, derived); m.changed<2>(0); m.changed<2>(1);"
    return MODULE % (case.rows, pair[0].replace("@", "m"), bind)


# -- modules -----------------------------------------------------------------------------------------------------------------


def python_pass(module: Module, x: Tensor, dy: Tensor, gradients: Sequence[Tensor]) -> Named:
    """Return y, dx and the parameters' gradients, which are added to the given ones."""
    if isinstance(module, Dropout):
        module.generators[0].manual_seed(5)  # type: ignore[union-attr]
    for (_, g), begin in zip(module.param(), gradients, strict=True):
        g.copy_(begin)
    y, saved = module.fwd(x)
    dx = module.bwd(saved, dy)
    return {"y": y, "dx": dx, **{f"d{name}": g.clone() for name, _, g in module.named_param()}}


def native_pass(lib: Library, case: Case, module: Module, x: Tensor, dy: Tensor, gradients: Sequence[Tensor]) -> Named:
    """Return what the C++ pair computes, as `python_pass` does. Raises AssertionError where the padding does not stay 0."""
    pair = module.native(case.features)
    assert pair is not None
    mask = torch.zeros(0)
    if isinstance(module, Dropout):
        module.generators[0].manual_seed(5)  # type: ignore[union-attr]
        mask = module.draw_mask(x)
    p, g = (
        Buffer(torch.cat([lib.rows(t).flatten() for t in tensors]) if tensors else torch.zeros(0, dtype=lib.dtype))
        for tensors in ([p for p, _ in module.param()], gradients)
    )
    inputs, outputs = Buffer(lib.rows(x)), Buffer(lib.rows(torch.full_like(dy, math.nan)))
    derivative, result = Buffer(lib.rows(dy)), Buffer(lib.rows(torch.full_like(x, math.nan)))
    before = [b.t.clone() for b in (p, inputs, derivative)]
    lib.call("fwd", case, p, g, Buffer(mask), inputs, outputs)
    lib.call("bwd", case, inputs if pair[2] else outputs, derivative, result)
    for buffer, kept in zip((p, inputs, derivative), before, strict=True):
        assert torch.equal(buffer.t.nan_to_num(), kept.nan_to_num()), "an input was changed"
    assert p.is_guarded()
    assert g.is_guarded(), "a number beside the gradients was written"
    found = {"y": cut(outputs.t, dy.shape[1]), "dx": cut(result.t, x.shape[1])}
    begin = 0
    for name, own, _ in module.named_param():
        shape = lib.rows(own).shape
        found[f"d{name}"] = cut(g.t[begin : begin + shape.numel()].view(shape), own.shape[-1]).view(own.shape)
        begin += shape.numel()
    return found


def cut(rows: Tensor, columns: int) -> Tensor:
    """Return rows without their padding, which must be 0."""
    assert not rows[:, columns:].any(), "the padding is not 0"
    return rows[:, :columns].clone()


def absolute(module: Module) -> Module:
    """Return a copy with the absolute values of the parameters."""
    return copy.copy(module).with_parameters([(p.abs(), g.clone()) for p, g in module.param()])


# -- losses ------------------------------------------------------------------------------------------------------------------


def native_loss(lib: Library, case: Case, y: Tensor, t: Tensor, weight: Tensor | None) -> Named:
    """Return value and dy of the C++ pair for the first rows of a buffer; the others hold finite numbers, as in the engine."""
    rows, columns = y.shape
    inputs = Buffer(lib.rows(torch.cat([y, y.new_full((case.rows - rows, columns), 0.3)])))
    dy = Buffer(lib.rows(y.new_full((case.rows, columns), math.nan)))
    targets = Buffer(t) if t.is_floating_point() else t
    address = ctypes.c_void_p(targets.address if isinstance(targets, Buffer) else targets.data_ptr())
    value = lib.call("loss", case, rows, inputs, address, None if weight is None else Buffer(weight), dy)
    assert not dy.t[rows:].any(), "dy is not 0 after the last row"
    return {"value": torch.tensor(value, dtype=lib.dtype), "dy": cut(dy.t[:rows], columns)}


# -- optimizers --------------------------------------------------------------------------------------------------------------


def native_update(lib: Library, case: Case, state: Sequence[Buffer], row: Sequence[float], first: bool) -> None:
    """Do one update of p and the slots; `state` is p, g and the slots, `row` the optimizer's scalars."""
    p, g, *slots = state
    table, kept = (ctypes.c_double * len(row))(*row), g.t.clone()
    lib.call("update", case, p, g, addresses([s.t for s in slots]), p.t.numel(), table, first)
    assert torch.equal(g.t.nan_to_num(), kept.nan_to_num()), "the gradient was changed"
    assert all(s.is_guarded() for s in slots), "a number beside a slot was written"


def row_of(optimizer: Optimizer) -> list[float]:
    """Return the scalars of the update that `advance` has prepared."""
    own = optimizer.per_replica
    return [own[name][0] if name in own else optimizer.scalars[name] for name in optimizer.scalar_names]
