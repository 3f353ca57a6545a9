"""Replay: the launch list as a table, walked by compiled code.

Binding happens once: every operand becomes an array at its planned address, every launch is packed
into an address and a block of words (`kernels/native/abi.py`). After that a step is a table,

    address of the body    address of its words    items    elements of work
    ...

and one compiled loop that calls down it (`pool.py`): no tape, no modules, no shapes, no allocation,
and no Python between one launch and the next.

A kernel without a native version for its operands is called as its NumPy reference, in its place:
there the table is cut in two.

One address may stay open: that of a result which each run writes elsewhere (`outgoing.py`). It is a
word in the blocks of the few launches that touch it, and `aim` writes those words anew.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from baremetal.autograd.memory import aligned_memory
from baremetal.capture.errors import CaptureError
from baremetal.capture.plan import Plan
from baremetal.capture.recording import Operand, RecordedLaunch
from baremetal.capture.stopped import stopped
from baremetal.capture.verify import verify_plan
from baremetal.capture.workspace import Workspace

if TYPE_CHECKING:
    from baremetal.kernels.native.abi import Launch

    Packed = Sequence[Launch] | Callable[[], Any]  # native launches, or a call of NumPy's


class Replay:
    """A plan bound to memory, ready to run.

    Args:
        plan: what to do.
        native: False runs the NumPy references, to compare.
        arena, workspace: the memory to bind it to; by default some of its own.
        out: uint8, where an outgoing result lies until it is aimed elsewhere; by default some of
            its own.

    Attributes:
        arena: the memory of all transient buffers, uint8.

    Raises:
        CaptureError: the plan is not sound (`verify.py`).
    """

    def __init__(
        self,
        plan: Plan,
        native: bool = True,
        arena: np.ndarray | None = None,
        workspace: Workspace | None = None,
        out: np.ndarray | None = None,
    ) -> None:
        verify_plan(plan)  # once bound, a launch is bare addresses: nothing below would notice
        self.plan = plan
        self._native = native
        self.arena = aligned_memory(plan.memory.planned_bytes) if arena is None else arena
        self._workspace = Workspace() if workspace is None else workspace
        needed_bytes = max((buffer.size_bytes for buffer in plan.outgoing), default=0)
        self._out = aligned_memory(needed_bytes) if out is None else out
        self._ends: list[int] = []  # for each part, how many launches are done when it is
        self._bound = self._bind()
        self._aimed = self._words_to_aim()
        self._parts = self._cut()

    @property
    def workspace(self) -> np.ndarray:
        """What kernels need while they run, one piece for all of them, uint8."""
        return self._workspace.memory

    def run(self) -> None:
        """Do the step once.

        Raises:
            CaptureError: it stopped half-way (a NumPy reference raised); says what that means.
        """
        number = -1
        try:
            for part in self._parts:
                number += 1  # for the error
                part()
        except Exception as error:
            raise self._stopped(number, error) from error
        except BaseException as error:  # Ctrl-C stays Ctrl-C
            error.add_note(str(self._stopped(number, error)))
            raise

    def aim(self, out: np.ndarray) -> None:
        """From now on the outgoing result is written into this array, of its shape and dtype."""
        self._out = out.reshape(-1).view(np.uint8)
        start = out.__array_interface__["data"][0]
        for block, word, offset_bytes in self._aimed:
            block[word] = start + offset_bytes

    def _stopped(self, number: int, error: BaseException) -> CaptureError:
        """What to say when part `number` did not come to its end."""
        first = self._ends[number - 1] if number > 0 else 0
        end = self._ends[number] if number >= 0 else 0
        return stopped(self.plan.launches, first, end, error)

    def launches(self) -> Iterator[Callable[[], Any]]:
        """The plan's launches one by one, as functions that run them: for whoever times them."""
        for _, packed in self._bound:
            yield packed if callable(packed) else partial(_run_each, packed)

    def bound_launches(self) -> "Iterator[tuple[RecordedLaunch, Sequence[Launch] | None]]":
        """Every recorded launch with its native ones, in order; None where NumPy does it."""
        for recorded, packed in self._bound:
            yield recorded, None if callable(packed) else packed

    def run_one_by_one(self) -> None:
        """Do the step once, coming back to Python after each launch."""
        for run in self.launches():
            run()

    def _array(self, operand: Operand | None) -> np.ndarray | None:
        """The operand as an array at its planned address."""
        if operand is None or operand.buffer is None:
            return None if operand is None else operand.array
        buffer = operand.buffer
        if buffer.memory is not None:
            return operand.over(buffer.memory)
        if buffer in self.plan.outgoing:
            return operand.over(self._out)
        return operand.over(self.arena, self.plan.offsets[buffer])

    def _packed(self, launch: RecordedLaunch) -> "Packed":
        """A recorded launch at its planned addresses: native launches, or a call of NumPy's."""
        arrays = tuple(map(self._array, launch.operands))
        packed = launch.kernel.pack(*arrays, **launch.attributes) if self._native else None
        if packed is None and self._goes_out(launch):
            return partial(self._run_reference, launch)
        if packed is None:
            return partial(launch.kernel.reference, *arrays, **launch.attributes)
        return [one for one in packed if one.items]  # launches of nothing are left out

    def _run_reference(self, launch: RecordedLaunch) -> None:
        """NumPy's version of a launch whose result lies somewhere else each time."""
        launch.kernel.reference(*map(self._array, launch.operands), **launch.attributes)

    def _goes_out(self, launch: RecordedLaunch) -> bool:
        return any(x is not None and x.buffer in self.plan.outgoing for x in launch.operands)

    def _words_to_aim(self) -> list[tuple[np.ndarray, int, int]]:
        """Where native launches have an address in the outgoing result.

        Returns:
            Block, word, and how many bytes that address is behind the result's beginning.
        """
        start, size_bytes = self._out.__array_interface__["data"][0], self._out.nbytes
        return [
            (launch.block, word, int(launch.block[word]) - start)
            for recorded, packed in self._bound
            if not callable(packed) and self._goes_out(recorded)
            for launch in packed
            for word, value in enumerate(launch.arrays)
            if isinstance(value, np.ndarray) and 0 <= launch.block[word] - start < size_bytes
        ]

    def _bind(self) -> "list[tuple[RecordedLaunch, Packed]]":
        """Every launch packed, their scratch memory in one workspace."""
        packed = [self._packed(launch) for launch in self.plan.launches]
        for one in packed:
            if not callable(one):
                self._workspace.ask(one)
        self._workspace.build()
        moved = [one if callable(one) else self._workspace.move(one) for one in packed]
        return list(zip(self.plan.launches, moved, strict=True))

    def _cut(self) -> list[Callable[[], Any]]:
        """Runs of native calls, and references between them."""
        from baremetal.kernels.native.pool import POOL

        parts: list[Callable[[], Any]] = []
        waiting: list[Launch] = []  # native launches that no reference has come between
        for number, (_, packed) in enumerate(self._bound):
            if not callable(packed):
                waiting += packed
                continue
            if waiting:
                parts.append(partial(POOL.run_all, _table(waiting)))
                self._ends.append(number)
            parts.append(packed)
            self._ends.append(number + 1)
            waiting = []
        if waiting:
            parts.append(partial(POOL.run_all, _table(waiting)))
            self._ends.append(len(self.plan.launches))
        return parts


def _table(launches: "Sequence[Launch]") -> np.ndarray:
    """What the thread pool takes: (n, 4) int64. Somebody must keep the launches alive."""
    rows = [
        (launch.address, launch.block.ctypes.data, launch.items, launch.items * launch.work)
        for launch in launches
    ]
    return np.array(rows, np.int64).reshape(-1, 4)


def _run_each(packed: "Sequence[Launch]") -> None:
    for launch in packed:
        launch.run()
