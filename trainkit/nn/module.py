"""A module is a pure pair: `y, saved = fwd(x)` and `dx = bwd(saved, dy)`, written by hand; gradients of parameters add up.

Notation, here and in every module: `x` in, `y` out, `dx` the gradient of the loss with respect to `x`; `w`, `b` parameters,
`dw`, `db` their gradients; `n` batch, `c` channels, `t` time, `r` replicas. `x` and `y` are tensors, or tuples where a module
takes or returns several.

The textbooks' stateful pair, `forward(x)` and `backward(dy)`, is made from the pure pair in this file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from trainkit.core.errors import UserError, UserErrors
from trainkit.core.recorded import Recorded
from trainkit.core.rng import generator

OTHER_NAMES = {  # of torch.nn.Module's methods
    "parameters": "net.param(), pairs of a parameter and its gradient",
    "named_parameters": "net.named_param()",
    "cuda": "net.to('cuda')",
    "cpu": "net.to('cpu')",
}
Tensors = Any  # a tensor, or a tuple of tensors (which may be nested): the type of x, y, dx and dy


class Module(Recorded):
    """A function with a hand-written derivative.

    An author writes `fwd` and `bwd`, and `bwd_params` if computing dx costs time that a first layer can save. Parameters are
    made by `self.w, self.dw = self.parameter("weight", (out, in))`: the attributes have the names of the notation, and files
    and messages use torch's name. Modules in attributes, or in lists and tuples that are attributes, are children.
    """

    training = True  # False in evaluation, where Dropout is the identity; `train()` and `eval()` set it
    replica_dims = 0  # the number of leading replica axes of x, y and every parameter: 0, or 1 after `replicate`
    can_replicate = True  # False if `fwd` does not support a leading replica axis
    accepts_tuple = False  # True if `fwd` takes a tuple as one input; any other module is mapped over a tuple
    nonsmooth_at: tuple[float, ...] = ()  # inputs at which the derivative jumps, which finite differences avoid

    def fwd(self, x: Tensors) -> tuple[Tensors, Any]:
        """Return y, and what `bwd` needs. Changes nothing on `self`, so that several passes may be in flight."""
        raise NotImplementedError(f"{type(self).__name__} has no fwd")

    def bwd(self, saved: Any, dy: Tensors) -> Tensors:
        """Return dx, and add to the parameters' gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no bwd")

    def bwd_params(self, saved: Any, dy: Tensors) -> None:
        """Add to the parameters' gradients only, for a net or its first layer, whose dx is not used. May consume `saved`."""
        self.bwd(saved, dy)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw new values for this module's own parameters, not for its children's."""

    def expected_input(self) -> str:
        """Return the input's shape for messages: `(n, 25)`."""
        return "a tensor"

    def invalid_input(self, x: Tensor) -> Tensor | None:
        """Return which numbers of x (n, ...) a pass would misread, as bool in x's shape; None if all are valid.

        A fit calls it for the module that takes the data, before the first step.
        """
        return None

    def flops(self, x: Tensors) -> int | None:
        """Return the floating-point operations of a forward pass on x; None if they are not known."""
        return None

    def native(self, features: int) -> tuple[str, int, bool] | None:
        """Return the C++ pair for rows of `features` numbers, or None if it has none.

        The declaration of a member `@`, of a type in the header beside the Python file; the features of y; and whether `bwd`
        takes x (else y) as what was saved.
        """
        return None

    # -- parameters ------------------------------------------------------------------------------------------------------

    def parameter(self, name: str, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Register a parameter and return it (its values are undefined) and its gradient (zero)."""
        p, g = torch.empty(tuple(shape)), torch.zeros(tuple(shape))
        self.__dict__.setdefault("_parameters", {})[name] = (p, g)
        return p, g

    def children(self) -> Iterator[tuple[str, Module]]:
        """Yield the child modules by name."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                yield from ((f"{name}.{i}", m) for i, m in enumerate(value) if isinstance(m, Module))

    def modules(self, path: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module and all below it, each once, by path: `0`, `2.body.1`. A shared module has its first path."""
        yield from _walk(self, path, set())

    def named_param(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield (name, parameter, gradient) of each parameter once. A name is `0.weight`."""
        for path, module in self.modules():
            for name, (p, g) in module.__dict__.get("_parameters", {}).items():
                yield (f"{path}.{name}" if path else name), p, g

    def param(self) -> list[tuple[Tensor, Tensor]]:
        """Return the (parameter, gradient) pairs, each once."""
        return [(p, g) for _, p, g in self.named_param()]

    def with_parameters(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> Self:
        """Return a copy of this module and of all below it with the parameters and gradients `pairs`, in the order of `param`.

        A module that occurs twice in the tree occurs twice in the copy. All other attributes, such as generators, are shared.
        Raises UserError if a parameter to be replaced is not an attribute of its module, or if a module cannot be replaced.
        """
        tree, new = dict(self.modules()), dict[int, Any]()
        attributes = {id(v) for m in tree.values() for v in vars(m).values() if isinstance(v, Tensor)}
        for (name, *old), pair in zip(self.named_param(), pairs, strict=True):
            if any(a is not b and id(a) not in attributes for a, b in zip(old, pair, strict=True)):
                raise UserError(f"{name} is not an attribute of its module; write self.w, self.dw = self.parameter(...)")
            new |= {id(a): b for a, b in zip(old, pair, strict=True)}
        new |= {id(m): object.__new__(type(m)) for m in tree.values()}
        for m in tree.values():
            vars(new[id(m)]).update((name, _replaced(value, new)) for name, value in vars(m).items())
        copied: Self = new[id(self)]
        for path, m in copied.modules():
            if m is not new.get(id(tree.get(path))):
                raise UserError(f"{path} is neither an attribute of its module nor in a list, tuple or dict that is one")
        return copied

    def zero_grad(self) -> None:
        """Set all gradients to zero."""
        for _, g in self.param():
            g.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the parameters by name. The names are torch's, so that `torch.nn.Sequential` loads them."""
        return {name: p.clone() for name, p, _ in self.named_param()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy the parameters in. Raises UserError, and copies nothing, if a name is missing or unknown or a shape differs."""
        if wrong := self.state_errors(state):
            raise UserErrors(wrong)
        for name, p, _ in self.named_param():
            p.copy_(state[name])

    def state_errors(self, state: dict[str, Tensor]) -> list[str]:
        """Return how a state's names and shapes differ from this module's, one line per difference."""
        own = {name: p for name, p, _ in self.named_param()}
        lines = [f"model: {name}: in the net, not in the state" for name in own if name not in state]
        lines += [f"model: {name}: in the state, not in the net" for name in state if name not in own]
        return lines + [
            f"model: {name}: the net has {tuple(own[name].shape)}, the state {tuple(value.shape)}"
            for name, value in state.items()
            if name in own and own[name].shape != value.shape
        ]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move parameters and gradients in place, so that every reference to them is moved too."""
        for p, g in self.param():
            p.data, g.data = p.data.to(device, dtype), g.data.to(device, dtype)
        return self

    def train(self, mode: bool = True) -> Self:
        """Set training mode, or evaluation mode if `mode` is False, here and below."""
        for _, module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set evaluation mode, here and below."""
        return self.train(False)

    def initialize(self, generator: torch.Generator | None = None) -> Self:
        """Draw new values for all parameters, this module's and those below, in the order of `modules`."""
        for _, module in self.modules():
            module.reset_parameters(generator)
        return self

    def replicate(self, seeds: Sequence[int]) -> Self:
        """Turn this model into len(seeds) models: every parameter gets a leading axis r, drawn from each seed's stream.

        Inputs, outputs and targets then have that axis too: x is (r, n, ...). Raises UserError if a module does not support it.
        """
        for path, module in self.modules():
            if not module.can_replicate:
                raise UserError(f"model {path} {type(module).__name__}: cannot train replicas; set trainer.replicas=1")
            if module.replica_dims:
                raise UserError(f"model {path}: has a replica axis already; replicate a net once")
        states = [self.initialize(generator(seed, "init")).state_dict() for seed in seeds]
        for name, p, g in self.named_param():
            p.data = torch.stack([state[name] for state in states]).to(p)
            g.data = torch.zeros_like(p.data)
        for _, module in self.modules():
            module.replica_dims = 1
        return self

    # -- the stateful pair -----------------------------------------------------------------------------------------------

    def __call__(self, *x: Tensor) -> Tensors:
        """Return y, and keep nothing for `backward`."""
        return self._fwd(x)[0]

    def forward(self, *x: Tensor) -> Tensors:
        """Return y, and keep what `backward` needs of this last pass. For several passes in flight use fwd and bwd."""
        y, self._saved = self._fwd(x)
        return y

    def backward(self, *dy: Tensor) -> Tensors:
        """Return dx of the last `forward`, once, and add to the gradients. Raises UserError without a `forward`."""
        if "_saved" not in self.__dict__:
            raise UserError(f"{type(self).__name__}.backward: nothing is saved; call forward first")
        return bwd_value(self, self.__dict__.pop("_saved"), dy[0] if len(dy) == 1 else dy)

    def _fwd(self, x: tuple[Tensors, ...]) -> tuple[Tensors, Any]:
        value = x[0] if len(x) == 1 else x
        try:
            return fwd_value(self, value)
        except FORWARD_ERRORS as error:
            raise located(self, self, value, error) from error

    if not TYPE_CHECKING:  # a type checker would accept any attribute

        def __getattr__(self, name: str) -> Any:
            """Raise AttributeError. For a name of torch.nn.Module, it says what to write in its place."""
            advice = f"; write {OTHER_NAMES[name]}" if name in OTHER_NAMES else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{advice}", name=name, obj=self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def extra_repr(self) -> str:
        """Return the arguments for `repr`."""
        return ""


@contextmanager
def eval_mode(net: Module) -> Iterator[None]:
    """Set evaluation mode inside the context, and restore each module's mode after it."""
    training = [m for _, m in net.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


FORWARD_ERRORS = (RuntimeError, IndexError, TypeError, ValueError)


class LayerError(UserError):
    """An error of a forward pass that names the innermost module: `2.Linear: x is (50, 3), needs (n, 25)`."""

    def __init__(self, module: Module, text: str) -> None:
        self.module, self.text = module, text
        super().__init__(text)


def located(net: Module, module: Module, x: Tensors, error: Exception) -> LayerError:
    """Return `error`, which the forward pass of `module` on x raised, with the path of the innermost module in `net`."""
    if isinstance(error, LayerError):
        module, text = error.module, error.text
    elif isinstance(error, UserError):
        text = str(error)
    else:
        features = getattr(module, "in_features", None)
        fits = features is None or (isinstance(x, Tensor) and x.dim() > 0 and x.shape[-1] == features)
        first_line = str(error).split("\n", 1)[0]
        text = f"{type(module).__name__}: {first_line if fits else f'x is {shape(x)}, needs {module.expected_input()}'}"
    path = next((path for path, m in net.modules() if m is module), "")
    found = LayerError(module, text)
    found.args = (f"{path}.{text}" if path else text,)
    return found


def shape(x: Tensors) -> str:
    """Return the shape as text: `(50, 25)`, or `((50, 25), (50, 3))` for a tuple."""
    return f"({', '.join(shape(v) for v in x)})" if type(x) is tuple else str(tuple(getattr(x, "shape", ())))


class MappedSaved(list[Any]):
    """What a module saved when it was mapped over a tuple: one entry per tensor."""


def fwd_value(module: Module, x: Tensors) -> tuple[Tensors, Any]:
    """Call `module.fwd`, mapped over a tuple if the module takes one tensor."""
    if type(x) is not tuple or module.accepts_tuple:
        return module.fwd(x)
    pairs = [module.fwd(xi) for xi in x]
    return tuple(y for y, _ in pairs), MappedSaved(saved for _, saved in pairs)


def bwd_value(module: Module, saved: Any, dy: Tensors) -> Tensors:
    """Call `module.bwd` for what `fwd_value` saved."""
    if type(saved) is not MappedSaved:
        return module.bwd(saved, dy)
    return tuple(module.bwd(s, d) for s, d in zip(saved, dy, strict=True))


def _replaced(value: Any, new: dict[int, Any]) -> Any:
    """Return an attribute with each parameter and module replaced, also in lists, tuples, dicts and bound methods.

    Returns the attribute itself if it contains none. new: the replacements by id.
    """
    if isinstance(value, (Tensor, Module)):
        return new.get(id(value), value)
    if type(value) in (list, tuple):
        items = [_replaced(v, new) for v in value]
        return value if all(a is b for a, b in zip(value, items, strict=True)) else type(value)(items)
    if type(value) is dict:
        values = {k: _replaced(v, new) for k, v in value.items()}
        return value if all(v is values[k] for k, v in value.items()) else values
    if isinstance(value, MethodType):
        return MethodType(value.__func__, new.get(id(value.__self__), value.__self__))
    return value


def _walk(module: Module, path: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, child in module.children():
        yield from _walk(child, f"{path}.{name}" if path else name, seen)
