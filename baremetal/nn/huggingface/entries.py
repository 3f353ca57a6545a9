"""A table of correspondences: which of their tensors make which of our parameters.

Names differ, and two habits do. GPT-2's linear layers ("Conv1D") keep their weights as (in, out),
ours, as everybody else's, are (out, in): transpose. And Llama keeps q, k and v (and gate and up)
as separate matrices, ours come out of one product: put their rows one below the other.

    ours  =  concatenation, along the rows, of theirs (each transposed, if the entry says so)

Every entry gives the shapes of theirs, so the same table reads, writes and finds every misfit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from baremetal.nn.huggingface.names import Arrays
from baremetal.nn.module import StateError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One of our parameters and where it is found on the other side.

    Attributes:
        ours: the parameter's name.
        theirs: their names and shapes, in the order in which they are put together.
        transposed: whether theirs are (in, out).
    """

    ours: str
    theirs: Mapping[str, Shape]
    transposed: bool = False

    @property
    def shape(self) -> Shape:
        """Our parameter's shape."""
        shapes = [shape[::-1] if self.transposed else shape for shape in self.theirs.values()]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def read(self, tensors: Arrays) -> np.ndarray:
        """Our parameter from their tensors; a view where one suffices."""
        parts = [tensors[name].T if self.transposed else tensors[name] for name in self.theirs]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def write(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Their tensors from our parameter; views of it."""
        rows = [shape[-1] if self.transposed else shape[0] for shape in self.theirs.values()]
        parts = np.split(array, np.cumsum(rows)[:-1])
        return {
            name: part.T if self.transposed else part
            for name, part in zip(self.theirs, parts, strict=True)
        }


def read_entries(entries: Sequence[Entry], tensors: Arrays, kind: str) -> dict[str, np.ndarray]:
    """Our state dict from their tensors.

    Raises:
        StateError: naming every missing, unexpected and misshaped tensor; `kind` says of what.
    """
    wanted = {name: shape for entry in entries for name, shape in entry.theirs.items()}
    _refuse_misfits(tensors, wanted, f"these tensors are not those of {kind}")
    return {entry.ours: entry.read(tensors) for entry in entries}


def write_entries(entries: Sequence[Entry], state: Arrays, kind: str) -> dict[str, np.ndarray]:
    """Their tensors from our state dict.

    Raises:
        StateError: naming every missing, unexpected and misshaped parameter; `kind` says of what.
    """
    wanted = {entry.ours: entry.shape for entry in entries}
    _refuse_misfits(state, wanted, f"this state dict is not that of {kind}")
    return {n: part for entry in entries for n, part in entry.write(state[entry.ours]).items()}


def _refuse_misfits(given: Arrays, wanted: Mapping[str, Shape], what: str) -> None:
    faults = [f"missing '{name}'" for name in wanted if name not in given]
    faults += [f"unexpected '{name}'" for name in given if name not in wanted]
    faults += [
        f"'{name}' has shape {given[name].shape}, expected {shape}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    if faults:
        raise StateError(f"{what}: {'; '.join(faults)}")
