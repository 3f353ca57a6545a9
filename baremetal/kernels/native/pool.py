"""The one thread pool, and the one parallel loop that runs every kernel.

Two pools that spin against each other (BLAS threads and numba threads) cost more than a factor
of ten on two cores. So there is one: numba's. BLAS is called single-threaded from inside it
(`blas.py`), and every kernel goes through the loop below, which splits the range of items into
one contiguous chunk a thread:

    items   0 ............................ n
    chunk   [ thread 0 )[ thread 1 )[ ... )

Contiguous chunks keep each thread on its own cache lines. A parallel loop costs a microsecond or
two to start, so launches that touch few elements stay on the calling thread.

A thread that has nothing to do waits for the next loop *spinning*, for sleeping and waking cost as
much as a small launch. GNU's OpenMP, which runs our threads on Linux, spins for milliseconds. If
another program wants the core, that is time taken from the very thread that is waited for: beside
one busy process on two cores, a training step of 22 ms took 180. So the patience is shortened to
`SPINS`, unless the user has chosen one: the same 22 ms alone, 70 to 110 beside the busy process.
(A tenth of it: 31 ms alone, 55 beside.)

numba's simplest threading layer (`workqueue`) aborts the process when two Python threads enter
it at once, so there is a lock at the door.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.extending import intrinsic

from baremetal.errors import BaremetalError
from baremetal.kernels.native.compiler import compile_or_load

SPINS = 10_000  # of OpenMP's waiting loop: outlasts what Python does between two launches
PARALLEL_FROM = 16_384  # elements: below this, starting threads costs more than it saves


def _be_less_patient() -> None:
    """Must come before the OpenMP library is loaded, which numba does at its first loop."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


_be_less_patient()


@intrinsic
def call(typing_context, address, lo, hi, args):
    """Call machine code: ``((void (*)(int64, int64, int64 *)) address)(lo, hi, args)``."""

    def generate(context, builder, signature, values):
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word, word, word.as_pointer()])
        callee = builder.inttoptr(values[0], function.as_pointer())
        block = builder.inttoptr(values[3], word.as_pointer())
        builder.call(callee, [values[1], values[2], block])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), generate


def _drive(address, args, items, chunks):
    if chunks == 1:
        call(address, 0, items, args)
    else:
        for chunk in prange(chunks):
            call(address, items * chunk // chunks, items * (chunk + 1) // chunks, args)


def _drive_all(table, threads, done):
    """The same for a whole list: rows of address, address of the block, items, elements.

    `done` is counted up with each launch, for those who watch from outside.
    """
    for i in range(table.shape[0]):
        done[0] += 1
        address, args, items = table[i, 0], table[i, 1], table[i, 2]
        chunks = min(threads, items) if table[i, 3] >= PARALLEL_FROM else 1
        if chunks == 1:
            call(address, 0, items, args)
        else:
            for chunk in prange(chunks):
                call(address, items * chunk // chunks, items * (chunk + 1) // chunks, args)


def _compiled(function, signature):
    return compile_or_load(
        lambda cache: njit(signature, parallel=True, nogil=True, error_model="numpy", cache=cache)(
            function
        )
    )


class ThreadPool:
    """How many threads run kernels, and the way in."""

    def __init__(self) -> None:
        self.threads = numba.get_num_threads()
        self._lock = threading.Lock()
        # The loop over the items of one launch; `program.py` calls it from compiled code.
        self.driver = _compiled(_drive, "void(int64, int64, int64, int64)")
        self._drive_all: Any = None  # compiled when a first list is run
        self._done = np.zeros(1, np.int64)

    @property
    def largest(self) -> int:
        """The most threads this process can use: decided by numba when it starts."""
        return numba.config.NUMBA_NUM_THREADS

    def set_threads(self, threads: int) -> None:
        """Use so many threads from now on. Raises BaremetalError if no integer in 1..largest."""
        is_integer = isinstance(threads, (int, np.integer)) and not isinstance(threads, bool)
        if not (is_integer and 1 <= threads <= self.largest):
            raise BaremetalError(
                f"{threads!r} threads asked for, but this process can use 1 to {self.largest}: "
                "choose an integer in that range (NUMBA_NUM_THREADS, set before start, raises it)"
            )
        self.threads = int(threads)
        numba.set_num_threads(self.threads)

    def count_in(self, done: np.ndarray) -> None:
        """Count the launches of lists in this word, (1,) int64, from now on.

        A list may run for minutes without coming back to Python. In memory that another process
        sees, the word tells it that this one is at work.
        """
        self._done = done

    def run(self, address: int, block: int, items: int, elements: int) -> None:
        """Run a body over `items` items; `elements` is the work, for choosing serial or parallel.

        `address` and `block` are where the machine code and its words lie.

        The chunk count depends on sizes and on the thread count alone, so the same launch is
        split the same way every time: same threads, same bits.
        """
        chunks = min(self.threads, items) if elements >= PARALLEL_FROM else 1
        with self._lock:
            self.driver(address, block, items, chunks)

    def run_all(self, table: np.ndarray) -> None:
        """`run` for a whole list, (n, 4) int64, without Python between one and the next.

        A row is what `run` takes: address, the block's address, items, elements. Whoever makes the
        table keeps the blocks alive.
        """
        if self._drive_all is None:
            self._drive_all = _compiled(_drive_all, "void(int64[:, ::1], int64, int64[::1])")
        with self._lock:
            self._drive_all(table, self.threads, self._done)

    def runner(
        self, program: Any, arena: int, workspace: int, fixed: int, bodies: int
    ) -> Callable[[], None]:
        """A function that runs a compiled program (`program.py`) with these addresses."""
        lock = self._lock

        def run() -> None:  # a step of a microsecond is as long as this: nothing is looked up twice
            with lock:
                program(arena, workspace, fixed, bodies, self.threads)

        return run


POOL = ThreadPool()
