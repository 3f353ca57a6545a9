"""A step while launches are being put together: a list of groups, each one launch in the end.

At first every launch is a group of its own. A fusion (`chains.py`, `residual_norm.py`, ...) looks
for launches that belong together and asks for them to be merged, which is done if

    they can meet           nothing between them must stay between them (`dependence.py`)
    they can be stages      it is known how their kernels walk, and their steps divide alike
    they agree              memory that one stage writes and another touches is stepped through by
                            both alike: step i of the one touches what step i of the other does
    it pays                 they share enough memory that it would leave the first-level cache
    it costs no memory      the most that is alive at once does not grow: a norm that is computed
                            again in the backward pass reads the forward's sum, and joined with it
                            would have to keep what recomputation was there to drop

`finish` turns the groups into launches again. A buffer that only one group touches, and that its
stages write before they read it, is not needed as memory any more: it becomes a scratch of one
tile and disappears from the plan. Buffers that outlive the step (a kept one) never do.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from baremetal.capture.arena import Lifetime, lower_bound
from baremetal.capture.fusion.dependence import Span, conflict, span_of, spans_of, step_aside
from baremetal.capture.fusion.stages import agree, compose
from baremetal.capture.recording import Buffer, Operand, RecordedLaunch
from baremetal.kernels.cost import ZERO, Cost
from baremetal.kernels.walk import size_bytes_of

SHARED_FROM_BYTES = 16 * 1024  # less stays in first-level cache from one launch to the next


class Draft:
    """The launches of a step in groups.

    Attributes:
        groups: in their order; each a list of recorded launches.
    """

    def __init__(self, launches: Sequence[RecordedLaunch]) -> None:
        self.groups: list[tuple[RecordedLaunch, ...]] = [(launch,) for launch in launches]
        self._spans = {id(launch): spans_of(launch) for launch in launches}
        self._places = {id(launch): number for number, launch in enumerate(launches)}
        self._writers = self._by_what_they_write(launches)
        self._buffers = {id(launch): _transient(launch) for launch in launches}
        self._most_bytes = self._alive_bytes(self.groups)

    # ------------------------------------------------------------ looking

    def find(self, *names: str) -> list[RecordedLaunch]:
        """All launches of these kernels, in their order."""
        return [one for one in self.launches() if one.kernel.name in names]

    def launches(self) -> Iterator[RecordedLaunch]:
        """All launches, in their order."""
        for group in self.groups:
            yield from group

    def writer(self, launch: RecordedLaunch, operand: Operand) -> RecordedLaunch | None:
        """The last launch before this one that writes some of this operand."""
        wanted = [span_of(operand, False)]
        here = self._position(launch)
        found = [
            one
            for one in self._writers[operand.buffer]
            if self._position(one) < here and conflict(wanted, self._spans[id(one)])
        ]
        return max(found, key=self._position, default=None)

    def _position(self, launch: RecordedLaunch) -> tuple[int, int]:
        """The number of its group, and its own within that."""
        place = self._places[id(launch)]
        return place, next(i for i, one in enumerate(self.groups[place]) if one is launch)

    def _by_what_they_write(
        self, launches: Sequence[RecordedLaunch]
    ) -> defaultdict[Buffer | None, list[RecordedLaunch]]:
        """The launches that write each buffer; under None those that write what was there before.

        Without it, asking for the writer of every operand would be quadratic in the launches.
        """
        writers = defaultdict(list)
        for launch in launches:
            for buffer in {span.buffer for span in self._spans[id(launch)] if span.is_written}:
                writers[buffer].append(launch)
        return writers

    def readers(self, launch: RecordedLaunch, operand: Operand) -> Iterator[RecordedLaunch]:
        """The launches in later groups that touch this operand, until one writes it."""
        wanted = span_of(operand, True)
        for group in self.groups[self._places[id(launch)] + 1 :]:
            for one in group:
                found = [span for span in self._spans[id(one)] if span.overlaps(wanted)]
                if found:
                    yield one
                if any(span.is_written for span in found):
                    return

    # ------------------------------------------------------------ merging

    def merge(self, *launches: RecordedLaunch) -> bool:
        """Put these launches (and those already with them) into one group, if that can be."""
        members = sorted({self._places[id(launch)] for launch in launches})
        if len(members) < 2:
            return False
        first, last = members[0], members[-1]
        window = self.groups[first : last + 1]
        inside = {member - first for member in members}
        together = tuple(one for position in sorted(inside) for one in window[position])
        if not (self._pays([self.groups[member] for member in members]) and agree(together)):
            return False
        spans = [[span for one in group for span in self._spans[id(one)]] for group in window]
        order = step_aside(spans, inside)
        if order is None:
            return False
        before, after = ([window[position] for position in positions] for positions in order)
        groups = [*self.groups[:first], *before, together, *after, *self.groups[last + 1 :]]
        if self._alive_bytes(groups) > self._most_bytes:
            return False
        self.groups = groups
        for number in range(first, len(self.groups)):
            for one in self.groups[number]:
                self._places[id(one)] = number
        return True

    def _pays(self, groups: Sequence[Sequence[RecordedLaunch]]) -> bool:
        """Whether each of them uses some memory of a size that matters that an earlier one uses."""
        seen: list[Span] = []
        for number, group in enumerate(groups):
            large = [
                span_of(operand, False)
                for launch in group
                for operand in launch.operands
                if operand is not None and size_bytes_of(operand) >= SHARED_FROM_BYTES
            ]
            if number and not any(one.overlaps(other) for one in large for other in seen):
                return False
            seen += large
        return True

    def _alive_bytes(self, groups: Sequence[Sequence[RecordedLaunch]]) -> int:
        """The most bytes of transient buffers that are alive at once.

        What only one group of several touches is not counted: it will be a scratch.
        """
        first: dict[Buffer, int] = {}
        last: dict[Buffer, int] = {}
        for number, group in enumerate(groups):
            for launch in group:
                for buffer in self._buffers[id(launch)]:
                    first.setdefault(buffer, number)
                    last[buffer] = number
        return lower_bound(
            [
                Lifetime(buffer.size_bytes, start, last[buffer])
                for buffer, start in first.items()
                if start < last[buffer] or len(groups[start]) == 1
            ]
        )

    # ------------------------------------------------------------ finishing

    def finish(self) -> list[RecordedLaunch]:
        """Every group as one launch."""
        is_private = self._privacy()
        return [
            group[0] if len(group) == 1 else compose(group, is_private) for group in self.groups
        ]

    def cost(self) -> Cost:
        """Of the whole step as it stands."""
        return sum((launch.cost for launch in self.finish()), ZERO)

    def _privacy(self) -> Callable[[Buffer], bool]:
        """Tells the transient buffers that a single group touches."""
        users: dict[Buffer, set[int]] = {}
        for number, group in enumerate(self.groups):
            for launch in group:
                for operand in launch.operands:
                    if operand is not None and operand.buffer is not None:
                        users.setdefault(operand.buffer, set()).add(number)
        return lambda buffer: buffer.memory is None and len(users[buffer]) == 1


def _transient(launch: RecordedLaunch) -> set[Buffer]:
    """The buffers that a launch touches and that do not outlive the step."""
    buffers = {one.buffer for one in launch.operands if one is not None}
    return {buffer for buffer in buffers if buffer is not None and buffer.memory is None}
