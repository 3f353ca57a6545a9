"""The life cycle of a slot: which segment may run in it next, and which results lie in it.

    free --forward--> 1 --input_gradient--> 2 --weight_gradient--> finished --forward--> 1 ...

A slot is one copy of a microbatch's memory. Its segments run in their one order, each once; then
the next microbatch may have it. Between them, other slots' segments may run as they like. Memory
alone would allow anything, and a gradient computed from another microbatch's activations looks
like any other gradient. So every run asks here first.
"""

from collections.abc import Sequence

from baremetal.capture.errors import CaptureError

BROKEN = -1  # a segment stopped half-way: what lies in the slot is of no use


class Cycle:
    """Where each slot stands.

    Args:
        names: the segments, in their order.
        slots: how many slots there are.
    """

    def __init__(self, names: Sequence[str], slots: int) -> None:
        self.names = names
        self._done = [0] * slots  # how many segments have run; len(names): all, results are there

    @property
    def free_slots(self) -> list[int]:
        """The slots that a first segment may run in."""
        return [slot for slot, done in enumerate(self._done) if done in (0, len(self.names))]

    def check_turn(self, slot: int, position: int) -> None:
        """Whether this segment may run in this slot now.

        Raises:
            CaptureError: it is not its turn, or there is no such slot.
        """
        self.check_slot(slot)
        done = self._done[slot]
        begins_anew = position == 0 and done == len(self.names)
        if done != position and not begins_anew:
            raise CaptureError(self._why_not(slot, position, done))

    def begin(self, slot: int) -> None:
        """A segment begins to run; until it has come to its end, it counts as broken off."""
        self._done[slot] = BROKEN

    def finish(self, slot: int, position: int) -> None:
        """The segment has run."""
        self._done[slot] = position + 1

    def release(self, slot: int) -> None:
        """Whatever the slot held, it is free now."""
        self.check_slot(slot)
        self._done[slot] = 0

    def check_readable(self, slot: int, position: int) -> None:
        """Whether the results of this segment lie in the slot.

        Raises:
            CaptureError: it has not run since the slot was last free, or there is no such slot.
        """
        self.check_slot(slot)
        if self._done[slot] <= position:
            raise CaptureError(
                f"slot {slot} holds no results of '{self.names[position]}': {self._state(slot)}; "
                f"read them after '{self.names[position]}' has run, and before "
                f"'{self.names[0]}' begins the next microbatch or the slot is released"
            )

    def check_slot(self, slot: int) -> None:
        """Whether there is such a slot.

        Raises:
            CaptureError: there is none.
        """
        if not 0 <= slot < len(self._done):
            raise CaptureError(
                f"slot {slot}: there are {len(self._done)}, numbered from 0: choose one of them, "
                "or capture with more slots"
            )

    def _why_not(self, slot: int, position: int, done: int) -> str:
        name, state = f"'{self.names[position]}' of slot {slot}", self._state(slot)
        if done == BROKEN:
            return f"{name}: {state}; release({slot}) it and begin the microbatch again"
        if position == 0:
            rest = ", ".join(f"'{n}'" for n in self.names[done:])
            return (
                f"{name}: {state}, so the slot is still in flight: run {rest} first, or "
                f"release({slot}) it, or take a free slot"
            )
        if done < position:
            return f"{name}: {state}; run '{self.names[done]}' first"
        return (
            f"{name}: {state}, and it runs once per microbatch: begin the next one with "
            f"'{self.names[0]}'"
        )

    def _state(self, slot: int) -> str:
        done = self._done[slot]
        if done == BROKEN:
            return "a segment stopped half-way in it"
        if done == 0:
            return "no segment has run in it since it was free"
        ran = ", ".join(f"'{name}'" for name in self.names[:done])
        return f"{ran} {'has' if done == 1 else 'have'} run"
