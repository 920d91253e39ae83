"""Many training steps in one call of compiled code: the step of `step.py`, traced once, in a loop inside the graph.

The graph holds all that a step does on the device: gather the batch, zero, forward, loss, backward, clip, update.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from trainkit.nn.layers.container import Recompute
from trainkit.nn.module import Module
from trainkit.optim.flat_buffer import unflatten

from .multi_step import MultiStepEngine

_drawing: WeakValueDictionary[int, Any] = WeakValueDictionary()  # modules that compiled code asks for random numbers
_numbers = itertools.count()


@torch.library.custom_op("trainkit::mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def mask(x: Tensor, which: Tensor, before: Tensor | None) -> Tensor:
    """What module number `which` draws for x, out of compiled code: from the generators that a checkpoint saves.

    The number is a tensor, so that the graphs of all such nets are the same and are found compiled. `before`: the mask that
    eager draws before this one, or a compiler would be free to change their order."""
    drawn: Tensor = _drawing[int(which)].draw_mask(x)
    return drawn


@mask.register_fake
def _(x: Tensor, which: Tensor, before: Tensor | None) -> Tensor:
    return torch.empty_like(x)


CACHE = "TORCHINDUCTOR_CACHE_DIR"  # the variable by which torch finds its cache folder

OPTIONS = {
    "cpp_wrapper": True,  # the loop too is C++
    "pattern_matcher": False,  # or a product and the sum behind it, taken apart here, become addmm again
    "size_asserts": False,  # the arguments are always the same tensors
    # Without these three, g++ reads torch's headers several times, and every process compiles anew (docs/decisions.md).
    "cpp.vec_isa_ok": True,  # take the vector instructions that the processor reports; no trial program is compiled to see
    "cpp_cache_precompile_headers": False,  # they pay for many graphs; for one, making them takes longer than they save
    "unsafe_marked_cacheable_functions": {"torch.ops.higher_order.while_loop": "1"},  # or torch caches no graph with a loop
}


class CompiledEngine(MultiStepEngine):
    """Compiles in about ten seconds; a process that finds the code compiled needs about two (see `compiled`).

    Raises UserError where the net cannot be traced; whatever torch raises where it cannot compile, a missing C++ compiler
    included, comes through."""

    kind = "compiled"

    def build(self, order: Tensor) -> None:
        self.first, self.end = torch.zeros(2, dtype=torch.int64, device=order.device).unbind(0)
        self.constants: list[Tensor] = []
        self.traceable = self._traceable()
        # Tensors made in inference mode cannot be traced; torch's compiler warns of its own parts.
        with torch.inference_mode(False), torch.no_grad(), collection_paused(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = [a.clone() for a in self._arguments(order)]
            steps, constants = self._traced(arguments)
            self.call, self.constants = compiled(steps, [*arguments, *constants]), constants

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        self.first.fill_(first)
        self.end.fill_(first + count)
        losses: Tensor = self.call(*self._arguments(order))[0]
        return losses[:count]

    def _arguments(self, order: Tensor) -> tuple[Tensor, ...]:
        table = self.first, self.end, self.x, self.t, order, self.table, self.losses
        return (*self.optimizer.state(), *table, *self.constants)

    def _traced(self, arguments: Sequence[Tensor]) -> tuple[Callable[..., tuple[Tensor]], list[Tensor]]:
        """The steps from the argument `first` up to `end` as a function of tensors, and the constants it takes besides."""
        *state, first, _, x, t, order, table, _ = arguments
        step, constants = traced(self._step, (first, table[0], x, t, order, *state))
        n = len(state)

        def steps(*tensors: Tensor) -> tuple[Tensor]:
            state, (first, end, x, t, order, table, losses, *constants) = tensors[:n], tensors[n:]

            def more(i: Tensor, *tensors: Tensor) -> Tensor:
                return i < tensors[n + 2]  # end

            def body(i: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
                state, (losses, first, _, x, t, order, table, *constants) = tensors[:n], tensors[n:]
                k = (i - first).view(1)  # the step's place in this call
                value, *after = step(i, table.index_select(0, k).squeeze(0), x, t, order, *state, *constants)
                return (i + 1, *after, losses.index_copy(0, k, value.unsqueeze(0)))

            carried = (first.clone(), *(s.clone() for s in state), losses.clone())
            read = (first, end, x, t, order, table, *constants)
            _, *after, losses = torch.ops.higher_order.while_loop(more, body, carried, read)
            for s, a in zip(state, after, strict=True):
                s.copy_(a)
            return (losses,)

        return steps, constants

    def _step(self, i: Tensor, row: Tensor, x: Tensor, t: Tensor, order: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The loss of step `i` and the state after it: a function of its arguments alone."""
        o = self.optimizer
        p, _, *slots = (s.clone() for s in state)
        own = [p for p, _ in o.pairs]
        pairs = [(view, torch.zeros_like(view)) for view in unflatten(p, own)]
        new = {id(p): pair for (p, _), pair in zip(o.pairs, pairs, strict=True)}
        net = self.traceable.with_parameters(new.get(id(p), (p, g)) for p, g in self.net.param())
        value = self.gradient_of(net)(*self.batch(i, x, t, order))
        g = torch.cat([g.reshape(-1) for _, g in pairs])  # not a flat buffer first: each gradient is then written once
        if self.clip is not None:
            self.clip(g, unflatten(g, own))
        o.apply_update(p, g, dict(zip(o.slots, slots, strict=True)), self.scalars(row))
        return value, p, g, *slots

    def _traceable(self) -> Module:
        """A copy of the net over the same parameters, as a graph can hold it: in one pass, and asking the net for its masks."""
        copied = self.net.with_parameters(self.net.param())
        drawn: list[Tensor | None] = [None]
        for (_, m), (_, c) in zip(self.net.modules(), copied.modules(), strict=True):
            if hasattr(m, "generators"):
                vars(c)["draw_mask"] = _asking(m, drawn)
            if isinstance(c, Recompute):
                c.recomputes = False  # the compiler chooses what is kept
        return copied


def traced(function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """`function` as a graph, and the tensors that it used beside its arguments: the graph takes them behind these."""
    from torch.fx.experimental.proxy_tensor import make_fx

    aten = torch.ops.aten
    # A product and the sum with a bias are taken apart: the addition joins the kernel that comes after it.
    apart = {
        aten.addmm.default: lambda b, x, w, beta=1, alpha=1: b + torch.mm(x, w),
        aten.addmm_.default: lambda b, x, w, beta=1, alpha=1: b.add_(torch.mm(x, w)),
        aten.baddbmm.default: lambda b, x, w, beta=1, alpha=1: b + torch.bmm(x, w),
        aten.baddbmm_.default: lambda b, x, w, beta=1, alpha=1: b.add_(torch.bmm(x, w)),
    }
    made = make_fx(function, decomposition_table=apart)(*arguments)
    constants = []
    last = [node for node in made.graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in made.graph.nodes if node.op == "get_attr"]:
        constants.append(getattr(made, node.target).clone())
        with made.graph.inserting_after(last):
            last = made.graph.placeholder(f"constant{len(constants)}")
        node.replace_all_uses_with(last)
        made.graph.erase_node(node)
    made.recompile()
    return made, constants


def compiled(function: Callable[..., tuple[Tensor]], arguments: Sequence[Tensor]) -> Callable[..., tuple[Tensor]]:
    """`function`, of tensors alone, as compiled code for tensors like `arguments`.

    The code is kept in a folder of torch's cache (`cache_folder`). It is found again by the text of the graph and of the
    loop's body, the values of its constants, the sizes, types and strides of `arguments`, all options of the compiler, the
    number of threads, and torch's source."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    graph = make_fx(function)(*arguments)
    for node in graph.graph.nodes:
        node.meta.clear()  # the values seen while tracing belong to another fake mode
    # All sizes are known: without being told so, the compiler keeps them open wherever one occurs twice.
    sizes = ShapeEnv(assume_static_by_default=True)
    options = {
        **OPTIONS,
        "cpp.vec_isa_ok": config.cpp.vec_isa_ok is not False,
    }  # a user may have set TORCHINDUCTOR_VEC_ISA_OK=0
    context = TracingContext(FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True))
    with tracing(context), cache_in(cache_folder()), no_probes():
        made: Any = compile_fx(graph, list(arguments), config_patches=options)
        return made


def cache_folder() -> str:
    """Where compiled code is kept: in torch's own cache folder (TORCHINDUCTOR_CACHE_DIR, or torch's default), a folder for each
    pair of a processor and a torch.

    torch's keys hold neither: its libraries are named by their source and by flags such as `-march=native`, which mean other
    instructions on another processor, and by the path of torch's headers, which an upgrade in place leaves as it was. A home
    directory shared by several machines, or ATEN_CPU_CAPABILITY set for one run, would be given code of another."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    processor: dict[str, Any] = dict(getattr(torch.cpu, "get_capabilities", dict)())  # not in every torch that is supported
    facts = sorted((k, v) for k, v in processor.items() if not k.startswith("num_"))  # the number of cores may be a container's
    what = (facts, os.environ.get("ATEN_CPU_CAPABILITY"), torch.__version__, torch.version.git_version)
    return os.path.join(cache_dir(), f"trainkit-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}")


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """torch's compiler keeps its files in `folder` inside, and after that where it did before."""
    before = os.environ.get(CACHE)
    os.environ[CACHE] = folder
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = before


@contextmanager
def no_probes() -> Iterator[None]:
    """Inside, torch does not load its trial libraries, each in a Python process of its own, to see whether a vector instruction
    works: the rest of what "cpp.vec_isa_ok" is for. Code that cannot be loaded is found out at once, when it is loaded."""
    from torch._inductor.cpu_vec_isa import VecISA

    before = VecISA._probe_load
    VecISA._probe_load = lambda self, output_path: True  # type: ignore[method-assign]
    try:
        yield
    finally:
        VecISA._probe_load = before  # type: ignore[method-assign]


@contextmanager
def collection_paused() -> Iterator[None]:
    """No garbage collection inside: all modules of the compiler stay, and to look through them again and again while they are
    imported takes a quarter of the time in which code that is found compiled is ready (docs/decisions.md)."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _asking(module: Any, drawn: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
    """A `mask` for `module` that a graph can hold: a call of the module's own. drawn: the mask before it, of any module."""
    number = next(_numbers)
    _drawing[number] = module
    which = torch.tensor(number)

    def asking(x: Tensor) -> Tensor:
        drawn[0] = made = mask(x, which, drawn[0])
        return made

    return asking
