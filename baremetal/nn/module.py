"""Modules: parameters with names, arranged as a tree.

A module is an object whose attributes are parameters, other modules, or lists, tuples and dicts of
these, nested as you like. Nothing is registered anywhere: the tree is found by looking at the
attributes, in the order in which they were set, and a parameter's name is its path, e.g.
``blocks.0.attention.qkv.weight``. A parameter that
two modules share (a tied output matrix) is one parameter, under the first of its names. The words
are PyTorch's, since that is what a learner will meet next.
"""

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

import numpy as np

from baremetal.autograd import Device, Parameter, Tensor
from baremetal.errors import BaremetalError
from baremetal.kernels.elementwise import copy

Kind = TypeVar("Kind")


class StateError(BaremetalError):
    """A state dict that does not fit the module, with every misfit named."""


class Module:
    """Base of all layers and models: write `forward`, set parameters and modules as attributes."""

    training = True

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward: define one")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    # ------------------------------------------------------------ the tree

    def _attributes(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        """Attributes of this kind with their names; members of a list are ``list.index``."""
        for name, value in vars(self).items():
            yield from _found(name, value, kind)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Direct submodules with their names: ``list.index`` in a list, ``dict.key`` in a dict."""
        yield from self._attributes(Module)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and everything below it, depth first.

        Raises:
            BaremetalError: a module contains itself.
        """
        yield from self._below(prefix, ())

    def _below(self, prefix: str, above: tuple["Module", ...]) -> Iterator[tuple[str, "Module"]]:
        if any(module is self for module in above):
            raise BaremetalError(
                f"module '{prefix}' (a {type(self).__name__}) contains itself: modules are a tree; "
                "for a way back to a module above, keep a function that returns it"
            )
        yield prefix, self
        for name, child in self.named_children():
            yield from child._below(f"{prefix}.{name}" if prefix else name, (*above, self))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with its path; a tied parameter keeps its first name.

        Raises:
            BaremetalError: two parameters have the same path, or a module contains itself.
        """
        seen: set[int] = set()
        paths: set[str] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module._attributes(Parameter):
                if id(parameter) in seen:
                    continue
                path = f"{prefix}.{name}" if prefix else name
                if path in paths:
                    raise BaremetalError(
                        f"two parameters are called '{path}': choose other keys for the dict"
                    )
                seen.add(id(parameter))
                paths.add(path)
                yield path, parameter

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """How many numbers there are to train (tied ones count once)."""
        return sum(parameter.size for parameter in self.parameters())

    # ------------------------------------------------------------ modes and gradients

    def train(self, mode: bool = True) -> Self:
        """Switch to training (True: dropout on, experts full at their capacity) or not (False)."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation: the same input gives the same output, whatever is beside it."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def name_parameters(self) -> Self:
        """Give every parameter its path as `name`, for messages, pictures and optimiser states."""
        for name, parameter in self.named_parameters():
            parameter.name = name
        return self

    def to(self, dtype: Any = None, device: Device | None = None) -> Self:
        """Convert every parameter, in place: to float64 for a gradient check, to another device.

        Do it before an optimiser takes the parameters into its flat memory.

        Raises:
            BaremetalError: the dtype is not floating, a gradient is there already, or an optimiser
                holds the parameters' memory.
        """
        if dtype is not None and np.dtype(dtype).kind != "f":
            raise BaremetalError(f"to({dtype}): parameters are floating, use float32 or float64")
        for name, parameter in self.named_parameters():
            # A buffer for gradients shows here even when no gradient is in it.
            if parameter.gradient_target() is not None:
                raise BaremetalError(
                    f"to(): parameter '{name}' has a gradient or belongs to an optimiser, whose "
                    "memory would be left behind: convert the model before training it"
                )
        for parameter in self.parameters():
            place = parameter.device if device is None else device
            array = place.empty(parameter.shape, parameter.dtype if dtype is None else dtype)
            place.launch(copy, parameter.data, array)
            parameter.device.note_leaf(parameter)
            parameter.data, parameter.device = array, place
            parameter.version.bump("to")
        return self

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name (the memory itself, not copies)."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy arrays into the parameters; all or nothing.

        Args:
            state: arrays (or tensors) by parameter name. Other floating types are converted, as
                long as no number becomes infinite.
            strict: refuse missing and unexpected names; arrays of another shape, or of something
                that is no real number, are always refused.

        Raises:
            StateError: naming every missing, unexpected, misshaped and unusable entry, and every
                parameter whose memory cannot be written to.
        """
        own = dict(self.named_parameters())
        arrays = {name: _array(value) for name, value in state.items()}
        faults = []
        if strict:
            faults += [f"missing '{name}'" for name in own if name not in arrays]
            faults += [f"unexpected '{name}'" for name in arrays if name not in own]
        shared = [name for name in own if name in arrays]
        faults += [fault for name in shared if (fault := _misfit(name, arrays[name], own[name]))]
        if faults:
            raise StateError(
                f"this state does not fit {type(self).__name__}: {'; '.join(faults)}: "
                "build the model with the sizes the state was saved from"
            )
        for name in shared:
            own[name].data[...] = arrays[name]
            own[name].version.bump("load_state_dict")

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        """The tree, with the shapes of the parameters at its leaves."""
        facts = [f"{name} {parameter.shape}" for name, parameter in self._attributes(Parameter)]
        children = [
            f"\n  ({name}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        end = "\n" if children else ""
        return f"{type(self).__name__}({', '.join(facts)}{''.join(children)}{end})"


def _found(name: str, value: Any, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """What is of this kind in an attribute: itself, or in lists, tuples and dicts, however deep."""
    if isinstance(value, kind):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _found(f"{name}.{index}", item, kind)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _found(f"{name}.{key}", item, kind)


def _array(value: Any) -> np.ndarray:
    return value.data if isinstance(value, Tensor) else np.asarray(value)


def _misfit(name: str, array: np.ndarray, parameter: Parameter) -> str:
    """What keeps `array` from being this parameter's value, or ""."""
    if array.shape != parameter.shape:
        return f"'{name}' has shape {array.shape}, expected {parameter.shape}"
    if not np.can_cast(array.dtype, parameter.dtype, "same_kind"):
        return f"'{name}' has dtype {array.dtype}, expected {parameter.dtype}"
    if _overflows(array, parameter.dtype):
        return f"'{name}' holds numbers too large for {parameter.dtype}"
    if not parameter.data.flags.writeable:
        return f"'{name}' lies in read-only memory here, where nothing can be loaded"
    return ""


def _overflows(array: np.ndarray, dtype: np.dtype) -> bool:
    """Whether a finite number in it would become infinite."""
    if np.can_cast(array.dtype, dtype, "safe"):
        return False
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    return bool((np.isfinite(array) & ~np.isfinite(converted)).any())
