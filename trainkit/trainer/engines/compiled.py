"""Many training steps in one call of compiled code: the step of `step.py`, traced once, in a loop inside the graph.

The graph holds the whole step on the device: gather the batch, zero, forward, loss, backward, clip, update.
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

_mask_modules: WeakValueDictionary[int, Any] = WeakValueDictionary()  # modules that draw the masks for compiled code, by number
_module_numbers = itertools.count()


@torch.library.custom_op("trainkit::mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def mask(x: Tensor, which: Tensor, before: Tensor | None) -> Tensor:
    """Return the mask that module number `which` draws for x, outside compiled code: from generators that a checkpoint saves.

    The number is a tensor, so that all such nets have the same graph and share its compiled code. before: the mask that eager
    steps draw before this one; without this dependency the compiler may change their order.
    """
    drawn: Tensor = _mask_modules[int(which)].draw_mask(x)
    return drawn


@mask.register_fake
def _(x: Tensor, which: Tensor, before: Tensor | None) -> Tensor:
    return torch.empty_like(x)


CACHE = "TORCHINDUCTOR_CACHE_DIR"  # the variable by which torch finds its cache folder

OPTIONS = {
    "cpp_wrapper": True,  # the loop too is C++
    "pattern_matcher": False,  # else a product and its sum, separated in `traced`, become addmm again
    "size_asserts": False,  # the arguments are always the same tensors
    # Without these three, g++ reads torch's headers several times, and every process compiles again (docs/decisions.md).
    "cpp.vec_isa_ok": True,  # use the vector instructions that the processor reports; compile no trial program
    "cpp_cache_precompile_headers": False,  # for a single graph, precompiling them takes longer than it saves
    "unsafe_marked_cacheable_functions": {"torch.ops.higher_order.while_loop": "1"},  # else torch caches no graph with a loop
}


class CompiledEngine(MultiStepEngine):
    """Compiled code for many steps. Compiling takes about ten seconds; loading cached code takes about two (see `compiled`).

    Raises UserError where the net cannot be traced. Errors of torch's compiler, such as for a missing C++ compiler, are passed
    on.
    """

    kind = "compiled"

    def build(self, order: Tensor) -> None:
        self.first, self.end = torch.zeros(2, dtype=torch.int64, device=order.device).unbind(0)
        self.constants: list[Tensor] = []
        self.traceable = self._traceable()
        # Tensors made in inference mode cannot be traced. torch's compiler warns about its own code.
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
        """Return the steps from the argument `first` up to `end` as a function of tensors, and its constants."""
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
        """Return the loss of step `i` and the state after it: a function of its arguments alone."""
        o = self.optimizer
        p, _, *slots = (s.clone() for s in state)
        own = [p for p, _ in o.pairs]
        pairs = [(view, torch.zeros_like(view)) for view in unflatten(p, own)]
        new = {id(p): pair for (p, _), pair in zip(o.pairs, pairs, strict=True)}
        net = self.traceable.with_parameters(new.get(id(p), (p, g)) for p, g in self.net.param())
        value = self.gradient_of(net)(*self.batch(i, x, t, order))
        g = torch.cat([g.reshape(-1) for _, g in pairs])  # joined at the end, so that each gradient is written once
        if self.clip is not None:
            self.clip(g, unflatten(g, own))
        o.apply_update(p, g, dict(zip(o.slots, slots, strict=True)), self.scalars(row))
        return value, p, g, *slots

    def _traceable(self) -> Module:
        """Return a copy of the net over the same parameters that can be traced: without recomputation, with masks by `mask`."""
        copied = self.net.with_parameters(self.net.param())
        last: list[Tensor | None] = [None]
        for (_, m), (_, c) in zip(self.net.modules(), copied.modules(), strict=True):
            if hasattr(m, "generators"):
                vars(c)["draw_mask"] = _mask_function(m, last)
            if isinstance(c, Recompute):
                c.recomputes = False  # the compiler chooses what to keep and what to recompute
        return copied


def traced(function: Callable[..., tuple[Tensor, ...]], arguments: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """Return `function` as a graph, and the tensors that it uses besides its arguments: the graph takes them after these."""
    from torch.fx.experimental.proxy_tensor import make_fx

    aten = torch.ops.aten
    # A product and the sum with a bias are separated: the addition is then fused with the operation after it.
    decompositions = {
        aten.addmm.default: lambda b, x, w, beta=1, alpha=1: b + torch.mm(x, w),
        aten.addmm_.default: lambda b, x, w, beta=1, alpha=1: b.add_(torch.mm(x, w)),
        aten.baddbmm.default: lambda b, x, w, beta=1, alpha=1: b + torch.bmm(x, w),
        aten.baddbmm_.default: lambda b, x, w, beta=1, alpha=1: b.add_(torch.bmm(x, w)),
    }
    graph = make_fx(function, decomposition_table=decompositions)(*arguments)
    constants = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        constants.append(getattr(graph, node.target).clone())
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant{len(constants)}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    graph.recompile()
    return graph, constants


def compiled(function: Callable[..., tuple[Tensor]], arguments: Sequence[Tensor]) -> Callable[..., tuple[Tensor]]:
    """Return `function`, of tensors alone, as compiled code for tensors like `arguments`.

    The code is kept in a folder of torch's cache (`cache_folder`). Its key is the text of the graph and of the loop's body,
    the values of its constants, the sizes, types and strides of `arguments`, all options of the compiler, the number of
    threads, and torch's source.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    graph = make_fx(function)(*arguments)
    for node in graph.graph.nodes:
        node.meta.clear()  # the values seen while tracing belong to another fake mode
    # All sizes are known. By default the compiler would treat a size that occurs twice as variable.
    sizes = ShapeEnv(assume_static_by_default=True)
    options = {**OPTIONS, "cpp.vec_isa_ok": config.cpp.vec_isa_ok is not False}  # a user may set TORCHINDUCTOR_VEC_ISA_OK=0
    context = TracingContext(FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True))
    with tracing(context), cache_in(cache_folder()), no_probes():
        code: Any = compile_fx(graph, list(arguments), config_patches=options)
        return code


def cache_folder() -> str:
    """Return the folder of compiled code: one per processor and version of torch, in torch's cache folder.

    torch's cache folder is TORCHINDUCTOR_CACHE_DIR or torch's default. Its keys hold neither the processor nor the version.
    They hold flags such as `-march=native`, which mean other instructions on another processor, and the path of torch's
    headers, which an upgrade does not change. With a home directory shared by several machines, or ATEN_CPU_CAPABILITY set
    for one run, code of another processor would be loaded.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    processor: dict[str, Any] = dict(
        getattr(torch.cpu, "get_capabilities", dict)()
    )  # missing in older supported versions of torch
    facts = sorted(
        (k, v) for k, v in processor.items() if not k.startswith("num_")
    )  # a container may limit the number of cores
    identity = (facts, os.environ.get("ATEN_CPU_CAPABILITY"), torch.__version__, torch.version.git_version)
    return os.path.join(cache_dir(), f"trainkit-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}")


@contextmanager
def cache_in(folder: str) -> Iterator[None]:
    """Make torch's compiler keep its files in `folder` inside the block."""
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
    """Keep torch from testing vector instructions inside the block: it would load trial libraries in separate processes.

    The option "cpp.vec_isa_ok" skips only their compilation. Code that cannot be loaded raises an error when it is loaded.
    """
    from torch._inductor.cpu_vec_isa import VecISA

    before = VecISA._probe_load
    VecISA._probe_load = lambda self, output_path: True  # type: ignore[method-assign]
    try:
        yield
    finally:
        VecISA._probe_load = before  # type: ignore[method-assign]


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection inside the block.

    The compiler's modules are not freed, and traversing them during their import takes a quarter of the time of loading cached
    code (docs/decisions.md).
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _mask_function(module: Any, last: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
    """Return a `mask` method for `module` that can be traced. last: holds the mask drawn before, by any module."""
    number = next(_module_numbers)
    _mask_modules[number] = module
    which = torch.tensor(number)

    def draw(x: Tensor) -> Tensor:
        last[0] = drawn = mask(x, which, last[0])
        return drawn

    return draw
