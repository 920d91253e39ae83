"""The C++ source of the steps of a net: each module's pair from the header beside its Python file, called in order."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import torch

import trainkit
from trainkit.core.cpp import flag, number
from trainkit.core.errors import UserError
from trainkit.nn.layers import Dropout, Flatten, Identity, Linear, Recompute, Residual, Sequential
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

PACKAGE = Path(trainkit.__file__).parent
STEPS = Path(__file__).with_name("steps.h")
TYPES = {torch.float32: "float", torch.float64: "double"}

SHARED = 8e6  # multiply-adds of a pass, from which on two models divide it: less takes no longer than waiting for each other

Backward = Callable[[str, bool], str]  # (dy, needs_dx) -> dx: adds the backward pass; names of buffers


@dataclass
class Source:
    """The text of a model's struct, as it grows. `dropouts` are the calls of Dropout in the order of the forward pass."""

    fields: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)  # the members with parameters, in the order of `net.param()`
    dropouts: list[tuple[str, Dropout, int]] = field(default_factory=list)  # member, module, features
    members: dict[int, str] = field(default_factory=dict)  # by the module: a module that occurs twice has one member
    buffers: int = 0

    def member(self, thing: object, declaration: str, once: bool = True) -> str:
        """Return the member for a module, loss or optimizer: the one that it has already, or a new one."""
        if not once or id(thing) not in self.members:
            name = f"m{len(self.members)}"
            self.members[id(thing) if once else -len(self.members) - 1] = name
            self.fields.append(declaration.replace("@", name))
            header = str(header_of(type(thing)).relative_to(PACKAGE))
            if header not in self.headers:
                self.headers.append(header)
            if isinstance(thing, Module) and thing.param():
                self.parameters.append(name)
            return name
        return self.members[id(thing)]

    def buffer(self, features: int) -> str:
        """Return the name of a new buffer of N rows."""
        self.buffers += 1
        name = f"v{self.buffers}"
        self.fields.append(f"alignas(64) T {name}[N * pad({features})] = {{}};")
        return name

    def module(self, m: Module, x: str, features: int) -> tuple[str, int, Backward]:
        """Add the forward pass of a module on x. Return y, its features, and the function that adds the backward pass."""
        if type(m) in (Sequential, Residual, Recompute):
            assert isinstance(m, Sequential)
            return self.chain(m, x, features)
        if type(m) in (Identity, Flatten) or (type(m) is Dropout and m.p == 0):
            return x, features, lambda dy, needs_dx: dy
        pair = m.native(features)
        if pair is None:
            raise no_pair(m)
        declaration, outputs, saves_x = pair
        name, y = self.member(m, declaration, once=type(m) is not Dropout), self.buffer(outputs)
        if isinstance(m, Dropout):
            self.dropouts.append((name, m, features))
        self.forward.append(f"{name}.fwd({x}, {y});")
        saved = x if saves_x else y

        def add_backward(dy: str, needs_dx: bool) -> str:
            if needs_dx:
                dx = self.buffer(features)
                self.backward.append(f"{name}.bwd({saved}, {dy}, {dx});")
                return dx
            if m.param():
                self.backward.append(f"{name}.bwd_params({saved}, {dy});")
            return ""

        return y, outputs, add_backward

    def chain(self, m: Sequential, x: str, features: int) -> tuple[str, int, Backward]:
        """Add the modules of a Sequential; of a Residual also the sums of x and y, and of their derivatives."""
        parts: list[Backward] = []
        y, width = x, features
        for child in m.layers:
            y, width, part = self.module(child, y, width)
            parts.append(part)
        if is_residual := type(m) is Residual:
            total = self.buffer(width)
            self.forward.append(f"add<N, {width}>({x}, {y}, {total});")
            y = total
        first = next((i for i, child in enumerate(m.layers) if child.param()), len(parts))  # needs no dx from here on

        def backward_chain(dy: str, needs_dx: bool) -> str:
            d = dy
            for i in range(len(parts) - 1, -1 if needs_dx else first - 1, -1):
                d = parts[i](d, needs_dx or i > first)
            if not (is_residual and needs_dx):
                return d
            dx = self.buffer(width)
            self.backward.append(f"add<N, {width}>({dy}, {d}, {dx});")
            return dx

        return y, width, backward_chain


@dataclass(frozen=True)
class Steps:
    """The source of the steps, and the calls of Dropout whose masks it takes: module and features."""

    text: str
    dropouts: list[tuple[Dropout, int]]


def steps_source(
    net: Module,
    loss: Loss,
    optimizer: Optimizer,
    rows: int,
    parts: int,
    x: torch.Tensor,
    t: torch.Tensor,
    clip_norm: float | None,
    clip_value: float | None,
) -> Steps:
    """Return the source of steps of `parts` passes over at most `rows` samples each, like those of x and t.

    Raises UserError where a module, the loss or the optimizer has no C++ pair.
    """
    shape = x.shape[1:]
    first, features = next(leaves(net), None), shape.numel()
    if x.dtype not in TYPES:
        raise UserError(f"native steps compute in float32 or float64, not in {x.dtype}")
    if len(shape) > 1 and not (isinstance(first, Flatten) and (first.start_dim, first.end_dim) == (1, -1)):
        raise UserError(f"samples have {len(shape)} axes, native steps take rows of numbers; begin the net with Flatten()")
    s = Source()
    inputs = s.buffer(features)
    y, outputs, add_backward = s.module(net, inputs, features)
    if (pair := loss.native(outputs, t)) is None:
        raise no_pair(loss)
    dy = s.buffer(outputs)
    add_backward(dy, False)
    if (update := optimizer.native()) is None:
        raise no_pair(optimizer)
    if [id(p) for p, _ in optimizer.pairs] != [id(p) for p, _ in net.param()]:
        raise UserError("the optimizer has other parameters than the net")
    values = {
        "T": TYPES[x.dtype],
        "rows": rows,
        "parts": parts,
        "shares": 2 if 3 * rows * weights(net) >= SHARED else 1,
        "features": features,
        "slots": len(optimizer.slots),
        "scalars": len(optimizer.scalar_names),
        "masks": len(s.dropouts),
        "clips_value": flag(clip_value is not None),
        "clips_norm": flag(clip_norm is not None),
        "value_limit": number(clip_value or 0.0),
        "norm_limit": number(clip_norm or 0.0),
        "shapes": ", ".join(shape_of(p, net.replica_dims) for p, _ in net.param()),
        "loss": s.member(loss, pair),
        "rule": s.member(optimizer, update),
        "is_mean": flag(loss.reduction == "mean"),
        "x": inputs,
        "y": y,
        "dy": dy,
        "derived": " + ".join(f"wide(decltype({m})::derived)" for m in s.parameters),
        "bind": "\n    ".join(
            f"{m}.bind(q, d, e), q += {m}.size, d += {m}.size, e += wide({m}.derived);" for m in s.parameters
        ),
        "changed": " ".join(f"{m}.changed<SHARES>(share);" for m in s.parameters),
        "forward": "\n    ".join(s.forward),
        "backward": "\n    ".join(s.backward),
        "set_masks": "\n      ".join(
            f"{name}.mask = c.masks[{i}] + (((k * PARTS + part) * c.replicas + r) * ROWS + begin) * {width};"
            for i, (name, _, width) in enumerate(s.dropouts)
        ),
    }
    values["headers"] = "\n".join(f'#include "{h}"' for h in s.headers)
    values["fields"] = "\n  ".join(s.fields)
    text = Template(STEPS.read_text(encoding="utf-8")).substitute(values)
    return Steps(text, [(m, width) for _, m, width in s.dropouts])


def weights(net: Module) -> int:
    """Return the multiply-adds of a sample in one direction: the weights of the linear layers of one replica."""
    return sum(m.w.shape[-2] * m.w.shape[-1] for _, m in net.modules() if isinstance(m, Linear))


def leaves(net: Module) -> Iterator[Module]:
    """Yield the modules of nested Sequentials in the order of the forward pass."""
    for child in net.layers if isinstance(net, Sequential) else ():
        yield from leaves(child)
    if not isinstance(net, Sequential):
        yield net


def no_pair(thing: Module | Loss | Optimizer) -> UserError:
    return UserError(f"{type(thing).__name__} has no C++ code" + (" for these options" if has_header(type(thing)) else ""))


def shape_of(p: torch.Tensor, replica_dims: int) -> str:
    """Return the shape of a parameter without its replica axis, as rows and columns."""
    *rows, columns = p.shape[replica_dims:]
    return f"{{{math.prod(rows)}, {columns}}}"


def header_of(cls: type) -> Path:
    """Return the header beside the file of a class. Only trainkit's own are compiled."""
    if not has_header(cls):
        raise UserError(f"{cls.__name__} has no C++ code")
    return Path(inspect.getfile(cls)).with_suffix(".h")


def has_header(cls: type) -> bool:
    path = Path(inspect.getfile(cls)).with_suffix(".h")
    return PACKAGE in path.parents and path.is_file()
