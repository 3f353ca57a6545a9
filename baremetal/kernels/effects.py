"""Which of its arrays a kernel writes, read off its reference.

C would say it in the signature: `const float *x, float *out`. Python has no const, but references
are written in one manner, so that their source says the same: an array is written by an assignment
to its elements (``out[...] = y``, ``m[i] += 1``) or by NumPy, which is told where by ``out=out``.
What never stands in such a place is only read.

Whoever asks needs an answer that is never too small: that a launch *may* write an array. So where
the source says nothing (a generated reference, or one in another manner) the answer is: all of
them. A test holds it against what launches of every kernel really change.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator

from baremetal.kernels.kernel import Kernel

_WRITERS = {"at", "copyto", "fill", "put", "place", "putmask"}  # NumPy's, into their first array


def written_arrays(kernel: Kernel, count: int) -> tuple[int, ...]:
    """The positions of the arrays that a launch of this kernel with `count` arrays may write."""
    names, several = _parameters(kernel.reference)
    written = _written_names(kernel.reference)
    found = tuple(i for i, name in enumerate(names) if name in written and i < count)
    return tuple(range(count)) if several or not found else found


@functools.cache
def _parameters(reference: Callable) -> tuple[tuple[str, ...], bool]:
    """The names of the arrays, and whether there may be any number of them (`*parts`)."""
    parameters = inspect.signature(reference).parameters.values()
    names = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
    return names, any(p.kind is p.VAR_POSITIONAL for p in parameters)


@functools.cache
def _written_names(reference: Callable) -> frozenset[str]:
    """The names in whose elements the source of a function writes (local ones among them)."""
    try:
        source = textwrap.dedent(inspect.getsource(reference))
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):  # generated: there is no source to read
        return frozenset()
    return frozenset(name for node in ast.walk(tree) for name in _written_by(node))


def _written_by(node: ast.AST) -> Iterator[str]:
    """The names whose elements this piece of source writes."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
        yield from _base(node)  # out[...] = y
    elif isinstance(node, ast.AugAssign):
        yield from _base(node.target)  # out += y
    elif isinstance(node, ast.keyword) and node.arg == "out":
        yield from _base(node.value)  # np.exp(x, out=out)
    elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in _WRITERS:
        for place in (node.func, *node.args[:1]):  # out.fill(0), np.add.at(out, indices, y)
            yield from _base(place)


def _base(node: ast.AST) -> Iterator[str]:
    """The name that `name`, `name[...]`, `name.T[...]` begin with."""
    while isinstance(node, (ast.Subscript, ast.Attribute)):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
