"""Modules: parameters with names, arranged as a tree.

A module is an object whose attributes are parameters, other modules, or lists of modules. Nothing
is registered anywhere: the tree is found by looking at the attributes, in the order in which they
were set, and a parameter's name is its path, e.g. ``blocks.0.attention.qkv.weight``. The words are
PyTorch's, since that is what a learner will meet next.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from baremetal.autograd import Parameter, Tensor
from baremetal.errors import BaremetalError


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

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Direct submodules with their names; members of a list are named ``list.index``."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, (list, tuple)):
                for index, item in enumerate(value):
                    if isinstance(item, Module):
                        yield f"{name}.{index}", item

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """This module and everything below it, depth first."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Every parameter once, with its path; a tied parameter keeps its first name."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, Parameter) and id(value) not in seen:
                    seen.add(id(value))
                    yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """How many numbers are trained (tied ones count once)."""
        return sum(parameter.size for parameter in self.parameters())

    # ------------------------------------------------------------ modes and gradients

    def train(self, mode: bool = True) -> "Module":
        """Switch dropout on (True) or off (False) in the whole tree."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Switch dropout off."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def name_parameters(self) -> "Module":
        """Give every parameter its path as `name`, for messages and pictures."""
        for name, parameter in self.named_parameters():
            parameter.name = name
        return self

    # ------------------------------------------------------------ state

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters' arrays by name (the memory itself, not copies)."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy arrays into the parameters; all or nothing.

        Args:
            state: arrays (or tensors) by parameter name.
            strict: refuse missing and unexpected names; misshaped arrays are always refused.

        Raises:
            StateError: naming every missing, unexpected and misshaped entry.
        """
        own = dict(self.named_parameters())
        arrays = {name: _array(value) for name, value in state.items()}
        faults = []
        if strict:
            faults += [f"missing '{name}'" for name in own if name not in arrays]
            faults += [f"unexpected '{name}'" for name in arrays if name not in own]
        faults += [
            f"'{name}' has shape {arrays[name].shape}, expected {parameter.shape}"
            for name, parameter in own.items()
            if name in arrays and arrays[name].shape != parameter.shape
        ]
        if faults:
            raise StateError(
                f"this state does not fit {type(self).__name__}: {'; '.join(faults)}: "
                "build the model with the sizes the state was saved from"
            )
        for name, parameter in own.items():
            if name in arrays:
                parameter.data[...] = arrays[name]
                parameter.version.bump("load_state_dict")

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for name, child in self.named_children():
            lines += [f"  ({name}): " + repr(child).replace("\n", "\n  ")]
        return "\n".join([*lines, ")"]) if len(lines) > 1 else f"{lines[0]})"


def _array(value: Any) -> np.ndarray:
    return value.data if isinstance(value, Tensor) else np.asarray(value)
