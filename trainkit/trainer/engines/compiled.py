"""Many training steps in one call of compiled code: the step of `step.py`, traced once, in a loop inside the graph.

The graph holds the whole step on the device: gather the batch, zero, forward, loss, backward, clip, update. torch's compiler
(AOTInductor) makes it a library, which is kept in the user's cache folder. A second process traces the step to find its
library, and does not import the compiler.
"""

from __future__ import annotations

import gc
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from trainkit.core.library_cache import library
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


Compiled = Callable[[list[Tensor]], Sequence[Tensor]]

OPTIONS = {
    "cpp_wrapper": True,  # the loop too is C++
    "pattern_matcher": False,  # else a product and its sum, separated in `traced`, become addmm again
    "size_asserts": False,  # the arguments are always the same tensors
    # Without these three, g++ reads torch's headers several times, and every process compiles again (docs/decisions.md).
    "cpp.vec_isa_ok": True,  # use the vector instructions that the processor reports; compile no trial program
    "cpp_cache_precompile_headers": False,  # for a single graph, precompiling them takes longer than it saves
}


class CompiledEngine(MultiStepEngine):
    """Compiled code for many steps. Compiling takes about ten seconds; a library in the cache is loaded in less than one.

    Raises UserError where the net cannot be traced. Errors of torch's compiler, such as for a missing C++ compiler, are passed
    on.
    """

    adjective = "compiled"

    def build(self, order: Tensor) -> None:
        self.first, self.end = torch.zeros(2, dtype=torch.int64, device=order.device).unbind(0)
        self.constants: list[Tensor] = []
        self.traceable = self._traceable()
        # Tensors made in inference mode cannot be traced. torch's compiler warns about its own code.
        with torch.inference_mode(False), torch.no_grad(), collection_paused(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            *state, first, _, x, t, order, table, _ = arguments = [a.clone() for a in self._arguments(order)]
            step, self.constants = traced(self._step, (first, table[0], x, t, order, *state))
            arguments += self.constants
            self.call = compiled(many_steps(step, len(state)), arguments, library_key(step, arguments))

    def run(self, order: Tensor, first: int, count: int) -> Tensor:
        self.first.fill_(first)
        self.end.fill_(first + count)
        return self.call(list(self._arguments(order)))[0][:count]

    def _arguments(self, order: Tensor) -> tuple[Tensor, ...]:
        table = self.first, self.end, self.x, self.t, order, self.table, self.losses
        return (*self.optimizer.state(), *table, *self.constants)

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


def many_steps(step: Callable[..., tuple[Tensor, ...]], n: int) -> Callable[..., tuple[Tensor]]:
    """Return a function that takes the steps from its argument `first` up to `end`, and returns their losses.

    Its first n arguments are the state, in which it writes the state after the last step. The arguments after them are first,
    end, x, t, order, table, losses and the constants. step: a function of the step's number, its row of the table, x, t, order,
    the state and the constants.
    """

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

    return steps


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


def compiled(function: Callable[..., tuple[Tensor]], arguments: Sequence[Tensor], key: object) -> Compiled:
    """Return `function`, of tensors alone, as compiled code for tensors like `arguments`; `key` names its library."""
    path = library(key, lambda folder: build_library(function, arguments, folder))
    device = "Cpu" if arguments[0].device.type == "cpu" else "Cuda"
    run: Compiled = getattr(torch._C._aoti, f"AOTIModelContainerRunner{device}")(str(path), 1).run
    return run


def build_library(function: Callable[..., tuple[Tensor]], arguments: Sequence[Tensor], folder: Path) -> Path:
    """Compile `function`, of tensors alone, for tensors like `arguments`; return the path of the library, in `folder`."""
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_aot
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    graph = make_fx(function)(*arguments)
    for part in graph.modules():  # the loop's body is a graph of its own
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.clear()  # the values seen while tracing belong to another fake mode
    # All sizes are known. By default the compiler would treat a size that occurs twice as variable.
    mode = FakeTensorMode(shape_env=ShapeEnv(assume_static_by_default=True), allow_non_fake_inputs=True)
    sized: list[Any] = [mode.from_tensor(a, static_shapes=True) for a in arguments]
    options = {**OPTIONS, "cpp.vec_isa_ok": config.cpp.vec_isa_ok is not False}  # a user may set TORCHINDUCTOR_VEC_ISA_OK=0
    with tracing(TracingContext(mode)):
        written: Any = compile_fx_aot(graph, sized, config_patches={**options, "aot_inductor.output_path": str(folder)})
    return Path(written)


def library_key(step: torch.fx.GraphModule, arguments: Sequence[Tensor]) -> tuple[Any, ...]:
    """Return all that the library depends on: the step's code, its arguments, the options, this file, torch, the processor.

    torch's headers and `-march=native` have the same names after an upgrade of torch and on another processor, so both are
    named here. Else a home directory shared by several machines would hold code that ends in SIGILL on some of them.
    """
    layouts = [(tuple(a.shape), a.stride(), a.dtype, a.device) for a in arguments]
    source = Path(__file__).read_bytes()
    # Missing in older supported versions of torch. A container may limit the number of cores.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    processor = sorted((k, v) for k, v in capabilities.items() if not k.startswith("num_"))
    variables = [os.environ.get(name) for name in ("ATEN_CPU_CAPABILITY", "CXX", "TORCHINDUCTOR_VEC_ISA_OK")]
    return (
        step.code,
        layouts,
        source,
        torch.__version__,
        torch.version.git_version,
        torch.get_num_threads(),
        processor,
        variables,
    )


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
