"""Many training steps in one call: the step of `step.py` traced once, and looped over in compiled code.

The graph holds all that a step does on the device: gather the batch, zero, forward, loss, backward, clip, update. What the host
does between steps, the rate and the numbers that follow from the count of updates, it reads from a table. One body serves any
number of steps, so that the bits of a run do not depend on where its calls begin and end.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from .data.dataset import Part
from .errors import UserError
from .flat import spread, unflatten
from .nn.container import Recompute
from .nn.module import Module
from .optim.optimizer import Optimizer
from .step import Gradient

_drawing: WeakValueDictionary[int, Any] = WeakValueDictionary()  # modules that compiled code asks for random numbers
_numbers = itertools.count()


@torch.library.custom_op("trainkit::mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def mask(x: Tensor, which: Tensor, before: Tensor | None) -> Tensor:
    """What module number `which` draws for x, out of compiled code: from the generators that a checkpoint saves.

    The number is a tensor, so that the graphs of all such nets are the same and are found compiled. `before`: the mask that
    eager draws before this one, or a compiler would be free to change their order."""
    module = _drawing[int(which)]
    return type(module).mask(module, x)  # its own, also while it is lent one that comes here


@mask.register_fake
def _(x: Tensor, which: Tensor, before: Tensor | None) -> Tensor:
    return torch.empty_like(x)


CHUNK = 64  # steps of a call at most
PATIENCE = 0.1  # seconds of one call at most, so that a signal or a bar need not wait longer
OPTIONS = {
    "cpp_wrapper": True,  # the loop too is C++
    "pattern_matcher": False,  # or a product and the sum behind it, taken apart here, become addmm again
    "size_asserts": False,  # the arguments are always the same tensors
}
LOSS, GRADIENT, UPDATE = 1e-4, 1e-3, 1e-5  # how far a compiled step may be from eager (see `Compiled._check`)


class Compiled:
    """`steps(order, first, count) -> losses`: the steps number `first` and following of an epoch, (count,) or (count, r).

    Moves the optimizer's buffers on, in place; the gradient buffer holds the last step's. Construction compiles (about ten
    seconds) and checks one step against eager. Raises UserError where the net cannot be traced or differs from eager;
    whatever torch raises where it cannot compile, a missing C++ compiler included, comes through.
    """

    def __init__(
        self,
        net: Module,
        optimizer: Optimizer,
        gradient: Gradient,
        clip: Callable[[], Callable[[], None] | None],
        part: Part,
        size: int,
    ) -> None:
        """gradient: of a batch (see `step.py`); clip: makes the clipping of the optimizer's gradient, or None.
        part: all samples; size: of a batch."""
        self.net, self.optimizer, self.gradient, self.clip, self.size = net, optimizer, gradient, clip, size
        assert isinstance(part.x, Tensor)  # no Stored
        self.x, self.t = part.x, part.t
        self.homes = _homes(net, optimizer.pairs)
        replicas = optimizer.pairs[0][0].shape[:1] if net.lead else ()
        # In float64: 1 - β of a float32 β has lost half of its digits.
        self.table = optimizer.p.new_zeros(CHUNK, len(optimizer.numbers), *replicas, dtype=torch.float64)
        self.rows: list[Any] = []  # what the table holds
        self.losses = optimizer.p.new_zeros(CHUNK, *replicas)
        self.first, self.end = torch.zeros(2, dtype=torch.int64, device=part.x.device).unbind(0)
        self.seconds = 0.0  # of a step, in the call before
        self.constants: list[Tensor] = []
        self.random = [m for _, m in net.modules() if hasattr(m, "generators")]
        order = torch.arange(len(part), device=part.x.device).expand(*replicas, len(part)).clone()
        states = [(g, g.get_state()) for g in self._generators()]
        # Tensors made in inference mode cannot be traced; torch's compiler warns of its own parts.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = [a.clone() for a in self._arguments(order)]
            lent: list[tuple[Home, Any]] = [((vars(optimizer), "t"), 2)]  # any update but the first, which is eager's
            drawn: list[Tensor | None] = [None]
            lent += [((vars(m), "mask"), _asking(m, drawn)) for m in self.random]
            for _, m in net.modules():
                if isinstance(m, Recompute):  # a second pass would draw anew
                    lent += [((vars(m), name), getattr(super(Recompute, m), name)) for name in ("fwd", "bwd", "grad")]
            with _lent(lent):
                steps, constants = self._traced(arguments)
            self.call, self.constants = compiled(steps, [*arguments, *constants]), constants
        self._check(order, states)

    def _generators(self) -> list[torch.Generator]:
        found = {id(g): g for m in self.random for g in m.generators}
        return [torch.default_generator if g is None else g for g in found.values()]

    def __call__(self, order: Tensor, first: int, count: int) -> Tensor:
        rows = self._rows(count)
        if rows != self.rows[:count]:
            self.table[:count] = torch.tensor(rows, dtype=self.table.dtype)
            self.rows = rows
        self.first.fill_(first)
        self.end.fill_(first + count)
        began = time.perf_counter()
        losses: Tensor = self.call(*self._arguments(order))[0][:count]
        self.seconds = (time.perf_counter() - began) / count
        return losses

    def _rows(self, count: int) -> list[Any]:
        """The optimizer's numbers for each of its next updates, which are counted."""
        o, replicas = self.optimizer, self.table.shape[2:]
        if type(o).count is Optimizer.count:  # none follows from the count
            o.t += count
            return [_row(o, replicas)] * count
        rows = []
        for _ in range(count):
            o.count()
            rows.append(_row(o, replicas))
        return rows

    def fitting(self, count: int) -> int:
        """At most `count` steps: as many as a call takes, and does in PATIENCE."""
        return max(1, min(count, CHUNK, int(PATIENCE / self.seconds) if self.seconds else 1))

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

    def _step(self, i: Tensor, numbers: Tensor, x: Tensor, t: Tensor, order: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The loss of step `i` and the state after it: of its arguments alone, which net and optimizer hold meanwhile."""
        o, lead = self.optimizer, self.net.lead
        rows = order.index_select(lead, torch.arange(self.size, device=order.device) + i * self.size)
        p, _, *slots = (s.clone() for s in state)
        own = [p for p, _ in o.pairs]
        pairs = [(view, torch.zeros_like(view)) for view in unflatten(p, own)]
        with _lent(
            [(home, v) for homes, pair in zip(self.homes, pairs, strict=True) for home, v in zip(homes, pair, strict=True)]
        ):
            value = self.gradient(x[rows], t[rows])
        g = torch.cat([g.reshape(-1) for _, g in pairs])  # not a flat buffer first: each gradient is then written once
        now = dict(zip(o.numbers, numbers.unbind(0), strict=True))
        if lead:
            now = {k: spread(v.to(p.dtype), own) if k in o.given else v[0] for k, v in now.items()}
        still = now["lr"] == 0 if lead else None
        lent = {"p": p, "g": g, "still": still, "pairs": list(zip(unflatten(p, own), unflatten(g, own), strict=True))}
        with _lent([((vars(o), name), v) for name, v in {**lent, **now, **dict(zip(o.slots, slots, strict=True))}.items()]):
            clip = self.clip()
            if clip is not None:
                clip()
            o.apply()
        return value, p, g, *slots

    def _check(self, order: Tensor, states: Sequence[tuple[torch.Generator, Tensor]]) -> None:
        """One step beside eager, undone afterwards: the loss, the gradient, and what the update makes of that gradient.
        `states`: of the random generators, as they were before anything was traced."""
        o, lead = self.optimizer, self.net.lead
        before, count = [s.clone() for s in o.state()], o.t

        def back() -> None:
            o.t = max(count, 1)  # not the first update, which is eager's
            for s, b in zip(o.state(), before, strict=True):
                s.copy_(b)
            for generator, state in states:
                generator.set_state(state)

        back()
        rows = order.narrow(lead, 0, self.size)
        o.begin()
        loss = self.gradient(self.x[rows], self.t[rows])
        if (clip := self.clip()) is not None:
            clip()
        gradient = o.g.clone()
        back()
        found = self(order, 0, 1)[0].clone()
        state = [s.clone() for s in o.state()]
        back()
        o.g.copy_(state[1])
        o.update()
        wanted = [s.clone() for s in o.state()]
        back()
        o.t = count
        for name, a, b, limit in (
            ("loss", found, loss, LOSS),
            ("gradient", state[1], gradient, GRADIENT),
            *(("update", a, b, UPDATE) for a, b in zip(state, wanted, strict=True)),
        ):
            scale = float(b.abs().nan_to_num(0).max())
            apart = float((a - b).abs().nan_to_num(0).max())
            if apart > limit * scale or not torch.equal(a.isfinite(), b.isfinite()):
                raise UserError(f"the compiled {name} differs from eager's by {apart:.1e} of {scale:.1e}")


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
    """`function`, of tensors alone, as compiled code for tensors like `arguments`."""
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    graph = make_fx(function)(*arguments)
    for node in graph.graph.nodes:
        node.meta.clear()  # the values seen while tracing belong to another fake mode
    # All sizes are known: without being told so, the compiler keeps them open wherever one occurs twice.
    sizes = ShapeEnv(assume_static_by_default=True)
    with tracing(TracingContext(FakeTensorMode(shape_env=sizes, allow_non_fake_inputs=True))):
        made: Any = compile_fx(graph, list(arguments), config_patches=OPTIONS)
        return made


def _asking(module: Any, drawn: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
    """A `mask` for `module` that a graph can hold: a call of the module's own. drawn: the mask before it, of any module."""
    number = next(_numbers)
    _drawing[number] = module
    which = torch.tensor(number)

    def asking(x: Tensor) -> Tensor:
        drawn[0] = made = mask(x, which, drawn[0])
        return made

    return asking


def _row(optimizer: Optimizer, replicas: Sequence[int]) -> list[Any]:
    """The optimizer's numbers for the update that `count` has just prepared, one each or one a replica."""
    if not replicas:
        return [optimizer.given[name][0] if name in optimizer.given else getattr(optimizer, name) for name in optimizer.numbers]
    given = {name: v if len(v) > 1 else v * replicas[0] for name, v in optimizer.given.items()}
    return [given[name] if name in given else [getattr(optimizer, name)] * replicas[0] for name in optimizer.numbers]


Home = tuple[dict[str, Any], str]  # the attributes of an object, and the name of one


def _homes(net: Module, pairs: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Home, Home]]:
    """The attributes that hold each parameter and each gradient."""
    found = {id(v): (vars(m), name) for _, m in net.modules() for name, v in vars(m).items() if isinstance(v, Tensor)}
    missing = [name for name, *pair in net.named_param() if any(id(v) not in found for v in pair)]
    if missing:
        raise UserError(f"{missing[0]} is no attribute of its module; write self.w, self.dw = self.parameter(...)")
    return [(found[id(p)], found[id(g)]) for p, g in pairs]


@contextmanager
def _lent(values: Sequence[tuple[Home, Any]]) -> Iterator[None]:
    """Each home holds its value inside, and after that what it held before, or nothing."""
    before = [home.get(name, ...) for (home, name), _ in values]
    try:
        for (home, name), value in values:
            home[name] = value
        yield
    finally:
        for ((home, name), _), value in zip(values, before, strict=True):
            if value is ...:
                del home[name]
            else:
                home[name] = value
