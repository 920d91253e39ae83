"""The net of a configuration: layers by name. A size that is `auto` is taken from the data or from the layers before.

The layers are built in their order. A batch of zeros with the data's shape goes through those built so far, so that each knows
the width of its input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainkit.core.errors import UserError
from trainkit.core.validation import matches_hint, yaml_repr
from trainkit.data.sizes import Sizes
from trainkit.nn.layers.container import Container, Parallel, Residual, Sequential
from trainkit.nn.module import Module, Tensors, eval_mode, fwd_value, shape

from .construct import build_one, find_class
from .signature import bound, signature

AUTO = "auto"
INPUTS = {"in_features": -1, "input_size": -1, "in_channels": 1, "num_features": 1}  # torch's names, and the axis of x
OUTPUTS = ("out_features",)
CATEGORIES = ("categories",)
KNOWN = (*INPUTS, *OUTPUTS, *CATEGORIES)
LAYERS = "needs a list of layers: [{Linear: [2, 25]}, ReLU]"


class NetBuilder:
    """Builds nets and adds what is wrong to `errors`.

    sizes: those of the data; None builds a net with stand-ins, for a check before the data is read. uses_auto: whether a size
    was `auto`, once a net is built.
    """

    def __init__(self, errors: list[str], sizes: Sizes | None = None) -> None:
        self.errors, self.sizes, self.uses_auto = errors, sizes, False

    def net(self, value: Any) -> Sequential | None:
        """Return the net of the list `value`; None after an error."""
        if not isinstance(value, list) or not value:
            self.errors.append(f"model: {yaml_repr(value)}; {LAYERS}")
            return None
        x = None if self.sizes is None else torch.zeros(2, *self.sizes.features)
        layers = self._chain(value, "model", x, 1 if self.sizes is None else self.sizes.outputs)
        return None if layers is None else Sequential(*layers)

    def _chain(self, values: Sequence[Any], place: str, x: Tensors | None, outputs: int | None) -> list[Module] | None:
        """Return layers, each of which takes what the one before it gives; x, the zeros that the first takes.

        outputs: the width that an `auto` of the last one stands for; None if that is not known.
        """
        last = max((i for i, v in enumerate(values) if _has_outputs(v)), default=-1)
        layers: list[Module | None] = []
        for i, v in enumerate(values):
            m = self._layer(v, f"{place}[{i}]", x, outputs if i == last else None)
            layers.append(m)
            x = None if m is None or x is None else self._through(m, x, f"{place}[{i}]")
        built = [m for m in layers if m is not None]
        return built if len(built) == len(layers) else None

    def _through(self, m: Module, x: Tensors, place: str) -> Tensors | None:
        """Return what a layer gives for the zeros x; None after an error."""
        try:
            with eval_mode(m), torch.no_grad():
                return fwd_value(m, x)[0]
        except (UserError, RuntimeError, IndexError, TypeError, ValueError) as error:
            first_line = str(error).split("\n", 1)[0]
            needs = f"takes {m.expected_input()}" if not isinstance(error, UserError) else first_line
            self.errors.append(f"{place}.{type(m).__name__}: the layers before give {shape(x)}, it {needs}")
            return None

    def _layer(self, value: Any, place: str, x: Tensors | None, outputs: int | None) -> Module | None:
        """Return a layer. A container's arguments are layers themselves."""
        found = find_class("layer", value, place, self.errors)
        if found is None:
            return None
        cls, name, arguments = found
        if not (isinstance(cls, type) and issubclass(cls, Container)):
            before = len(self.errors)
            arguments = self._resolved(cls, name, arguments, place, x, outputs)
            layer: Module | None = None
            if len(self.errors) == before:
                layer = build_one(cls, name, arguments, place, self.errors)
            return layer
        place = f"{place}.{name}"
        if not isinstance(arguments, list) or not arguments:
            self.errors.append(f"{place}: {yaml_repr(arguments)}; {LAYERS}")
            return None
        if issubclass(cls, Parallel):
            inputs = x if isinstance(x, tuple) and len(x) == len(arguments) else [None] * len(arguments)
            made = [self._layer(v, f"{place}[{i}]", xi, None) for i, (v, xi) in enumerate(zip(arguments, inputs, strict=True))]
            branches = [m for m in made if m is not None]
            return cls(*branches) if len(branches) == len(made) else None
        if issubclass(cls, Residual):  # f(x) has the shape of x
            outputs = x.shape[-1] if isinstance(x, Tensor) else 1 if self.sizes is None else None
        layers = self._chain(arguments, place, x, outputs)
        return None if layers is None else cls(*layers)

    def _resolved(self, cls: Any, name: str, arguments: Any, place: str, x: Tensors | None, outputs: int | None) -> Any:
        """Return the arguments of a layer with numbers in place of each `auto`."""
        parameters, hints = signature(cls)
        given = bound(parameters, arguments)
        if given is None:
            return arguments  # its check says what is wrong
        automatic = [n for n, p in parameters.items() if given.get(n, p.default) == AUTO]
        for key in automatic:
            where = f"{place}.{name}.{key}"
            if key in KNOWN:
                self.uses_auto = True
                given[key] = self._size(key, where, x, outputs)
            elif not matches_hint(AUTO, hints.get(key, Any)):
                self.errors.append(f"{where}: auto; only {', '.join(KNOWN)} can be auto, write the value")
        return given if any(key in KNOWN for key in automatic) else arguments

    def _size(self, key: str, where: str, x: Tensors | None, outputs: int | None) -> Any:
        """Return the size that `auto` means for a parameter; after an error, or before the data is read, a stand-in."""
        if key in CATEGORIES:
            return [1] if self.sizes is None else self._categories(where, x)
        if key in OUTPUTS:
            if outputs is not None:
                return outputs
            problem = "is known for the last layer that has one, the number of classes or targets, and at the end of a Residual"
        elif self.sizes is None or x is None:
            return 1  # if the data is read, another error is reported
        else:
            axis = INPUTS[key]
            if isinstance(x, Tensor) and -x.dim() <= axis < x.dim() and x.dim() > 1:
                return x.shape[axis]
            problem = f"is not known, since its input is {shape(x)}; put Flatten, Concat or Add before it"
        self.errors.append(f"{where}: auto {problem}; write the number")
        return 1

    def _categories(self, where: str, x: Tensors | None) -> list[int]:
        """Return the numbers of categories of the data's code columns, which are its last."""
        assert self.sizes is not None
        codes = [k for k in self.sizes.categories if k]
        numbers = len(self.sizes.categories) - len(codes)
        if not codes:
            problem = "the data has no columns of codes; encode its categories as codes, or remove the layer"
        elif any(self.sizes.categories[:numbers]):
            problem = f"the code columns are not the last ones ({list(self.sizes.categories)}); put numbers first, then codes"
        elif not isinstance(x, Tensor) or tuple(x.shape[1:]) != (len(self.sizes.categories),):
            problem = "the layer does not take the data's columns; put it first, or write the numbers as a list"
        else:
            return codes
        self.errors.append(f"{where}: auto, but {problem}")
        return [1]


def _has_outputs(value: Any) -> bool:
    """Return whether a layer, or one inside it, has a parameter for the width of its output."""
    found = find_class("layer", value, "", [])
    if found is None:
        return False
    cls, _, arguments = found
    if isinstance(cls, type) and issubclass(cls, Container):
        return isinstance(arguments, list) and any(map(_has_outputs, arguments))
    return any(name in OUTPUTS for name in signature(cls)[0])
