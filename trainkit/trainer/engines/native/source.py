"""The C++ source of the steps of a net: each module's pair from the header beside its Python file, called in order."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

import torch

import trainkit
from trainkit.core.errors import UserError
from trainkit.nn.layers import Flatten, Identity, Residual, Sequential
from trainkit.nn.losses import Loss
from trainkit.nn.module import Module
from trainkit.optim.optimizer import Optimizer

PACKAGE = Path(trainkit.__file__).parent
STEPS = Path(__file__).with_name("steps.h")
TYPES = {torch.float32: "float", torch.float64: "double"}

Backward = Callable[[str], str]  # the name of dy -> the name of dx, "" where nothing needs it


@dataclass
class Source:
    """The text of the model's struct, as it grows. `rows` samples are one step."""

    rows: int
    fields: list[str] = field(default_factory=list)
    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)  # the members with parameters, in the order of `net.param()`
    members: dict[int, str] = field(default_factory=dict)  # by the module, so that a shared one has one member

    def member(self, thing: object, declaration: str) -> str:
        """Return the member for a module, loss or optimizer: the one that it has already, or a new one."""
        if id(thing) not in self.members:
            name = f"m{len(self.members)}"
            self.members[id(thing)] = name
            self.fields.append(declaration.replace("@", name))
            header = str(header_of(type(thing)).relative_to(PACKAGE))
            if header not in self.headers:
                self.headers.append(header)
            if isinstance(thing, Module) and thing.param():
                self.parameters.append(name)
        return self.members[id(thing)]

    def buffer(self, features: int) -> str:
        """Return the name of a new buffer of `rows` rows."""
        name = f"v{sum('alignas' in f for f in self.fields)}"
        self.fields.append(f"alignas(64) T {name}[N * pad({features})] = {{}};")
        return name

    def module(self, m: Module, x: str, features: int) -> tuple[str, int, Callable[[str, bool], str]]:
        """Add the forward pass of a module on x.

        Return the names of y, its features, and the function that adds the backward pass: backward(dy, needs_dx) -> dx.
        """
        if type(m) in (Sequential, Residual):
            assert isinstance(m, Sequential)
            return self.chain(m, x, features)
        if type(m) in (Identity, Flatten):
            return x, features, lambda dy, needs_dx: dy
        pair = m.native(features)
        if pair is None:
            raise UserError(f"{type(m).__name__} has no C++ pair")
        declaration, out, saves_x = pair
        name, y = self.member(m, declaration), self.buffer(out)
        self.forward.append(f"{name}.fwd({x}, {y});")
        saved = x if saves_x else y

        def backward(dy: str, needs_dx: bool) -> str:
            if needs_dx:
                dx = self.buffer(features)
                self.backward.append(f"{name}.bwd({saved}, {dy}, {dx});")
                return dx
            if m.param():
                self.backward.append(f"{name}.bwd_params({saved}, {dy});")
            return ""

        return y, out, backward

    def chain(self, m: Sequential, x: str, features: int) -> tuple[str, int, Callable[[str, bool], str]]:
        """Add the modules of a Sequential; of a Residual also the sums of x and y, and of their derivatives."""
        parts, y, width = [], x, features
        trainable = [bool(child.param()) for child in m.layers]
        for child in m.layers:
            y, width, backward = self.module(child, y, width)
            parts.append(backward)
        if type(m) is Residual:
            total = self.buffer(width)
            self.forward.append(f"add<N, {width}>({x}, {y}, {total});")
            y = total

        def chained(dy: str, needs_dx: bool) -> str:
            given = dy
            needs = needs_dx or (type(m) is Residual and needs_dx)
            for i in range(len(parts) - 1, -1, -1):
                if not (needs or any(trainable[: i + 1])):
                    return ""
                dy = parts[i](dy, needs or any(trainable[:i]))
            if type(m) is Residual and needs_dx:
                dx = self.buffer(width)
                self.backward.append(f"add<N, {width}>({given}, {dy}, {dx});")
                return dx
            return dy

        return y, width, chained


def source(net: Module, loss: Loss, optimizer: Optimizer, rows: int, features: int, dtype: torch.dtype) -> str:
    """Return the source of one step's struct and of `steps`, for batches of `rows` samples of `features` numbers.

    Raises UserError where a module, the loss or the optimizer has no C++ pair.
    """
    s = Source(rows)
    x = s.buffer(features)
    y, outputs, backward = s.module(net, x, features)
    pair = loss.native(outputs, rows)
    if pair is None:
        raise UserError(f"{type(loss).__name__} with these options has no C++ pair")
    declaration, target = pair
    name, dy = s.member(loss, declaration), s.buffer(outputs)
    s.forward.append(f"T value = {name}.fwd_bwd({y}, t, {dy});")
    backward(dy, False)
    update = optimizer.native()
    if update is None:
        raise UserError(f"{type(optimizer).__name__} with these options has no C++ pair")
    rule = s.member(optimizer, update)
    values = {
        "T": TYPES[dtype],
        "headers": "\n".join(f'#include "{h}"' for h in s.headers),
        "N": rows,
        "features": features,
        "targets": 1 if target == "int64_t" else outputs,
        "Target": target,
        "slots": len(optimizer.slots),
        "scalars": len(optimizer.scalar_names),
        "fields": "\n  ".join(s.fields),
        "x": x,
        "rule": rule,
        "shapes": ", ".join(_shape(p, net.replica_dims) for p, _ in net.param()),
        "bind": " ".join(f"{m}.p = q; {m}.g = d; q += {m}.size; d += {m}.size;" for m in s.parameters),
        "changed": " ".join(f"{m}.changed();" for m in s.parameters),
        "forward": "\n    ".join(s.forward),
        "backward": "\n    ".join(s.backward),
    }
    return Template(STEPS.read_text(encoding="utf-8")).substitute(values)


def _shape(p: torch.Tensor, replica_dims: int) -> str:
    """Return the shape of a parameter without its replica axis, as rows and columns."""
    *rows, columns = p.shape[replica_dims:]
    return f"{{{math.prod(rows)}, {columns}}}"


def header_of(cls: type) -> Path:
    """Return the header beside the file of a class. Only trainkit's own are compiled."""
    path = Path(inspect.getfile(cls)).with_suffix(".h")
    if PACKAGE not in path.parents or not path.is_file():
        raise UserError(f"{cls.__name__} has no C++ pair")
    return path
