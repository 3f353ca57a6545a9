"""The operations, by family. Each file holds forwards with their gradient rules beneath."""

from baremetal.autograd.ops.elementwise import add, multiply
from baremetal.autograd.ops.matmul import linear, matmul

__all__ = ["add", "linear", "matmul", "multiply"]
