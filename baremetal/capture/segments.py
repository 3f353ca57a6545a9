"""Segments: a pipeline stage's microbatch as plans that take the memory slot as an argument.

A pipeline stage does not run a step from end to end. It runs the forward of one microbatch, then
perhaps the forward of the next, then the input-gradient of the first, and its weight-gradient when
there is time (P. Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024: F, I and W). Each of
these is a segment, captured once, and run for any microbatch in flight by naming its slot:

    stage = capture_segments(
        {"forward": f, "input_gradient": i, "weight_gradient": w},
        inputs={"forward": (x,), "input_gradient": (dy,)},
        parameters=module.parameters(),
        slots=4,
    )
    optimizer.zero_grad()                           # once per step
    y = stage["forward"].run(2, x)                  # microbatch in slot 2
    dx = stage["input_gradient"].run(2, dy)
    stage["weight_gradient"].run(2)                 # adds to the parameters' gradients

The functions are called one after the other while the device records; what Python passes from one
to the next (the tape, what a deferred backward still owes) it passes through whatever object they
belong to:

    class Stage:
        def forward(self, x):
            self.x = Tensor(x, requires_grad=True)
            self.y = self.module(self.x)
            return self.y
        def input_gradient(self, dy):
            self.owed = self.y.backward(dy, defer_weights=True)
            return self.x.grad
        def weight_gradient(self):
            self.owed.pay()

That recording is no step: what its launches changed is put back (`undo.py`). What Python still
holds of it afterwards (here `self.x`, `self.y`, `self.owed`) is not used again: let it go.

What changes from microbatch to microbatch besides the inputs lies in a fixed buffer that the
forward reads by a launch; write it before each run. Dropout's sample number is such a one, and the
forward copies it into its slot, so that the backward finds its own microbatch's even if others have
begun in between: ``dropout_state.set(step, first_sample)``, then ``forward.run(...)``. So is the
count of tokens that a loss divides by (`total`).

Gradients are those of eager accumulation, bit for bit. The first gradient of a step overwrites what
lies in its memory, later ones are added, and those are different launches. So the functions are
called twice, for a first microbatch and for one of the others, and a segment that writes gradients
has two versions (`both_ways.py`); which is meant, each run sees by whether the parameters have
gradients. Nothing need exist beforehand but the optimiser, whose memory they use. A step begins
with `zero_grad()`, as always, and the optimiser finds what it always finds.

A link can write a segment's inputs where they are expected (`inputs(slot)`, once the segment before
it has run in that slot) and send its results from where they lie (`outputs(slot)`, until the next
microbatch begins there). Better still, a result that is only sent need not lie in the slot at all:
the plan takes the memory that it is sent from as another argument,

    y = stage["forward"].run(2, x, out=message)     # the last launch writes into the message

if the forward was captured with ``outgoing={"forward": example}`` and its result may go out
(`outgoing.py` has the rule, ``stage["forward"].goes_out`` the answer).

Run segments from one thread: they share scratch memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from baremetal.autograd import CPU, Device, Parameter, Tensor
from baremetal.autograd.memory import aligned_memory
from baremetal.autograd.structure import leaves, mapped
from baremetal.capture.both_ways import BothWays, record_both_ways
from baremetal.capture.cycle import Cycle
from baremetal.capture.errors import CaptureError
from baremetal.capture.gradients import Gradients
from baremetal.capture.leaves import refuse_inside_recording
from baremetal.capture.outgoing import outgoing_buffer
from baremetal.capture.plan import Plan
from baremetal.capture.recording import Buffer, Operand, RecordedCheck
from baremetal.capture.replay import Replay
from baremetal.capture.segment_recording import RecordedSegment, Result
from baremetal.capture.slots import SlotMemory, SlotPlan, plan_slots
from baremetal.capture.verify import verify_plan
from baremetal.capture.workspace import Workspace
from baremetal.kernels.cost import ZERO, Cost
from baremetal.trace import format_bytes, format_count


class _Bound(NamedTuple):
    """A segment bound to the memory of one slot."""

    replay: Replay
    first: Replay  # of a step: overwrites gradients; the same one if it writes none
    inputs: tuple[np.ndarray, ...]
    outputs: Any  # None if the result goes out
    checks: Sequence[RecordedCheck]
    tensors: Sequence[Tensor]  # the tensors among the outputs


class Segment:
    """A part of a step, to be run in any slot.

    Attributes:
        name: as given to `capture_segments`.
        plan: its launches, bound as for slot 0.
        first_plan: those of the first microbatch of a step, which overwrites gradients where later
            ones add; the same plan if the segment writes none.
        goes_out: its result is written into the array that each run is given, `out`.
    """

    def __init__(
        self,
        owner: "Segments",
        position: int,
        recorded: RecordedSegment,
        plans: Sequence[Plan],
        bound: Sequence[_Bound],
        message: np.ndarray | None,
    ) -> None:
        self.name = recorded.name
        self.goes_out = message is not None
        self._message = message  # an example of what goes out
        self.plan, self.first_plan = plans[0], plans[-1]
        self._owner = owner
        self._position = position
        self._arguments = recorded.arguments
        self._bound = bound  # one for each slot

    def __repr__(self) -> str:
        return f"<segment {self.name}: {len(self.plan.launches)} launches>"

    @property
    def cost(self) -> Cost:
        """FLOPs and bytes of one run: the sum of its launches'.

        Of a run that adds to gradients. The first of a step moves a little less:
        ``first_plan.cost``.
        """
        return self.plan.cost

    def text(self) -> str:
        """Every launch, one to a line, with where its operands lie in slot 0 and what it costs."""
        flops, size_bytes = self.cost.flops, self.cost.size_bytes
        cost = f"{format_count(flops, 'FLOP')}, {format_bytes(size_bytes)} moved"
        summary = f"{self.name}: {len(self.plan.launches)} launches, {cost}"
        return "\n".join([summary, "", *self.plan.launch_lines()])

    def inputs(self, slot: int) -> tuple[np.ndarray, ...]:
        """The arrays in which this slot's inputs are expected, to be written from outside.

        They may be written once the segment before this one has run in the slot (the first
        segment's: once the slot is free). Then ``run(slot, *segment.inputs(slot))`` copies nothing.

        Raises:
            CaptureError: there is no such slot.
        """
        self._owner.cycle.check_slot(slot)
        return self._bound[slot].inputs

    def outputs(self, slot: int) -> Any:
        """What the last run in this slot returned, where it lies.

        Raises:
            CaptureError: the segment has not run there since the slot was last free, or its result
                went out.
        """
        self._owner.cycle.check_readable(slot, self._position)
        if self.goes_out:
            raise CaptureError(
                f"'{self.name}' writes its result into the array that each run is given: read it "
                "there"
            )
        return self._bound[slot].outputs

    def run(self, slot: int, *inputs: Any, out: np.ndarray | None = None) -> Any:
        """Run it in this slot.

        Args:
            slot: which microbatch's memory.
            inputs: arrays or tensors of the shapes and dtypes that were captured; they are copied
                into the slot, unless they are the slot's own (`inputs`).
            out: where the result goes, if it goes out (`goes_out`), contiguous.

        Returns:
            What the function returned, in the slot's memory: tensors (off the tape) or arrays, in
            the same structure. Valid until the first segment runs in this slot again. `out`, if
            that was given.

        Raises:
            CaptureError: it is not this segment's turn in this slot, an input or `out` has another
                shape or dtype, a parameter has moved, some gradients are there and some are not, a
                recording is open, or it stopped half-way.
            BaremetalError: what the function's own checks raise (a token outside the vocabulary);
                nothing has run then.
        """
        owner, position = self._owner, self._position
        refuse_inside_recording(owner.device, f"'{self.name}'")
        owner.cycle.check_turn(slot, position)
        is_first = owner.gradients.are_first(position)
        bound = self._bound[slot]
        arrays = self._checked(bound.inputs, inputs)
        self._check_out(out)
        if position == 0:
            owner.forget_outputs(slot)
        for own, array in zip(bound.inputs, arrays, strict=True):
            if array is not own:
                own[...] = array
        for check in bound.checks:
            check.function(*check.arrays)
        owner.cycle.begin(slot)
        replay = bound.first if is_first else bound.replay
        if out is not None:
            replay.aim(out)
        replay.run()
        owner.cycle.finish(slot, position)
        owner.gradients.written(position)
        return bound.outputs if out is None else out

    def changed_outputs(self, slot: int, by: str) -> None:
        """Count a change of every tensor that the last run in this slot returned."""
        for tensor in self._bound[slot].tensors:
            tensor.version.bump(by)

    def _check_out(self, out: np.ndarray | None) -> None:
        """Whether the array that was given is one for the result to go to."""
        wanted = self._message
        if wanted is None and out is not None:
            raise CaptureError(
                f"'{self.name}' was given an array for its result, which stays in the slot: leave "
                "`out` away and send what `run` returns (`outgoing.py` says which results go out)"
            )
        if wanted is None:
            return
        shape, dtype = wanted.shape, wanted.dtype
        if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (shape, dtype):
            given = "none" if out is None else f"{np.shape(out)} {getattr(out, 'dtype', '')}"
            raise CaptureError(
                f"the result of '{self.name}' goes out: give an array of shape {shape} {dtype} for "
                f"it, `out`; got {given}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
            raise CaptureError(
                f"the result of '{self.name}' goes out into an array that is not contiguous, not "
                "writeable or not aligned: launches write to it in one piece"
            )

    def _checked(self, own: Sequence[np.ndarray], given: Sequence[Any]) -> list[np.ndarray]:
        """The inputs as arrays of the right shapes and dtypes."""
        if len(given) != len(own):
            names = f" ({', '.join(self._arguments)})" if self._arguments else ""
            raise CaptureError(
                f"'{self.name}' was captured with {len(own)} inputs{names}, got {len(given)}: "
                "pass one array for each"
            )
        arrays = [x.data if isinstance(x, Tensor) else x for x in given]
        for name, mine, array in zip(self._arguments, own, arrays, strict=True):
            if not isinstance(array, np.ndarray):
                raise CaptureError(
                    f"input '{name}' of '{self.name}' is a {type(array).__name__}, but was "
                    f"captured as an array of shape {mine.shape}: pass an array"
                )
            if array.shape != mine.shape or array.dtype != mine.dtype:
                raise CaptureError(
                    f"input '{name}' of '{self.name}' has shape {array.shape} {array.dtype}, but "
                    f"was captured with shape {mine.shape} {mine.dtype}: a plan is made for one "
                    "shape and dtype; capture again for another"
                )
        return arrays


class Segments:
    """What `capture_segments` returns: ``stage["forward"]`` is a `Segment`.

    Attributes:
        memory: the report: slots, scratch, the whole arena.
        plan: slot 0 as one plan, all segments one after the other, and of those that write
            gradients both versions (to look at).
        cycle: which segment's turn it is in which slot.
        gradients: where the parameters' gradients are added up.
        device: where the segments launch.
    """

    def __init__(
        self,
        recorded: Sequence[RecordedSegment],
        versions: Sequence[int],
        plans: SlotPlan,
        gradients: Gradients,
        device: Device,
        messages: Mapping[str, np.ndarray],
    ) -> None:
        self.memory: SlotMemory = plans.memory
        self.plan = plans.whole
        self._plans = plans
        self.gradients = gradients
        self.device = device
        self.cycle = Cycle([part.name for part in recorded], plans.memory.slots)
        self._arena = aligned_memory(plans.memory.total_bytes)
        self._workspace = Workspace()
        # Where outgoing results lie before they are aimed anywhere: nothing is ever written there.
        self._nowhere = aligned_memory(max((x.nbytes for x in messages.values()), default=0))
        self._segments: dict[str, Segment] = {}
        cut_plans = iter(plans.segments)
        for position, (part, count) in enumerate(zip(recorded, versions, strict=True)):
            own = [next(cut_plans) for _ in range(count)]
            bound = [self._bind(part, own, slot) for slot in range(self.slots)]
            message = messages.get(part.name)
            self._segments[part.name] = Segment(self, position, part, own, bound, message)

    def __getitem__(self, name: str) -> Segment:
        if name not in self._segments:
            raise CaptureError(f"no segment '{name}': there are {', '.join(self._segments)}")
        return self._segments[name]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments.values())

    def __len__(self) -> int:
        return len(self._segments)

    def __repr__(self) -> str:
        return f"<segments {', '.join(self._segments)}: {self.memory.text()}>"

    @property
    def slots(self) -> int:
        """How many microbatches may be in flight."""
        return self.memory.slots

    @property
    def free_slots(self) -> list[int]:
        """The slots in which a microbatch may begin."""
        return self.cycle.free_slots

    @property
    def cost(self) -> Cost:
        """FLOPs and bytes of one microbatch: the sum of the segments'."""
        return sum((segment.cost for segment in self), ZERO)

    def zero_grad(self) -> None:
        """Begin a step: the parameters have no gradients. (The optimiser's `zero_grad` will do.)"""
        self.gradients.none()

    def forget_outputs(self, slot: int) -> None:
        """The next microbatch overwrites them: whoever saved one for a backward will be told."""
        self.cycle.release(slot)
        for segment in self:
            segment.changed_outputs(slot, by=f"the next microbatch in slot {slot}")

    def text(self) -> str:
        """Memory, and every launch of every segment (see `Segment.text`)."""
        return "\n\n".join([self.memory.text(), *(segment.text() for segment in self)])

    def release(self, slot: int) -> None:
        """Give a microbatch up half-way (after a forward alone, after an error)."""
        self.cycle.release(slot)

    def _bind(self, part: RecordedSegment, versions: Sequence[Plan], slot: int) -> _Bound:
        """One segment at the addresses of one slot."""
        replays = []
        native = self.device.kernels == "native"
        for version in versions:
            there = self._plans.at(version, slot)
            replays.append(Replay(there, native, self._arena, self._workspace, self._nowhere))
        offsets = self._plans.at(self.plan, slot).offsets

        def array(operand: Operand) -> np.ndarray:
            if operand.buffer is None:
                assert operand.array is not None
                return operand.array
            return operand.over(self._arena, offsets[operand.buffer])

        def output(result: Any) -> Any:
            if not isinstance(result, Result):
                return result
            own = array(result.operand)
            return own if result.device is None else Tensor(own, device=result.device)

        outputs = None if versions[0].outgoing else mapped(part.returned, output)
        return _Bound(
            replay=replays[0],
            first=replays[-1],
            inputs=tuple(map(array, part.inputs)),
            outputs=outputs,
            checks=[RecordedCheck(f, tuple(map(array, given))) for f, given in part.checks],
            tensors=[leaf for leaf in leaves(outputs) if isinstance(leaf, Tensor)],
        )


def capture_segments(
    functions: Mapping[str, Callable[..., Any]],
    *,
    inputs: Mapping[str, Sequence[Any]],
    slots: int,
    parameters: Iterable[Parameter] = (),
    device: Device = CPU,
    outgoing: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Segments:
    """Record functions that are called in turn for one microbatch, as segments.

    Args:
        functions: by name, in the order in which they run for each microbatch. Each takes arrays
            (or tensors) and returns tensors, arrays, or tuples, lists or dicts of them, or None.
        inputs: for each function that takes any, an example of each: the shapes and dtypes of all
            that will come. (Values matter only to the function's own checks: token ids must be in
            the vocabulary.)
        slots: how many microbatches may be in flight.
        parameters: whose gradients the functions compute; the optimiser must exist already.
        device: where they launch.
        outgoing: for each function whose result is sent to somebody, an example of the message. If
            the rule in `outgoing.py` allows it, the result has no memory in the slot: each run is
            given some (`Segment.goes_out` says so).

    Raises:
        CaptureError: no functions, no slots, inputs or a message for a function that is not there,
            a parameter that is used and not given, or what `capture` refuses too.
    """
    _check_arguments(functions, inputs, outgoing, slots)
    gradients = Gradients(parameters)
    added, joined = record_both_ways(functions, inputs, device, gradients)
    cuts = [cut for versions in joined.cuts for cut in versions]
    going_out = _going_out(added, joined, outgoing)
    plans = plan_slots(joined.launches, joined.buffers, cuts, slots, [*going_out.values()])
    verify_plan(plans.whole)
    versions = [len(each) for each in joined.cuts]
    messages = {name: outgoing[name] for name in going_out}
    return Segments(added, versions, plans, gradients, device, messages)


def _going_out(
    recorded: Sequence[RecordedSegment], joined: BothWays, messages: Mapping[str, np.ndarray]
) -> dict[str, Buffer]:
    """By name, the buffer of each result that need not lie in the slot."""
    found = {}
    for part, own in zip(recorded, joined.cuts, strict=True):
        if part.name not in messages:
            continue
        others = [cut for versions in joined.cuts if versions is not own for cut in versions]
        message = messages[part.name]
        buffer = outgoing_buffer(part.returned, message, joined.launches, own, others)
        if buffer is not None:
            found[part.name] = buffer
    return found


def _check_arguments(functions: Mapping, inputs: Mapping, outgoing: Mapping, slots: int) -> None:
    if not functions or slots < 1:
        raise CaptureError(f"{len(functions)} functions, {slots} slots: give at least one of each")
    unknown = ", ".join(f"'{name}'" for name in (*inputs, *outgoing) if name not in functions)
    if unknown:
        raise CaptureError(
            f"inputs or a message for {unknown}, but the functions are {', '.join(functions)}: "
            "give them under the name of the function that takes or returns them"
        )
