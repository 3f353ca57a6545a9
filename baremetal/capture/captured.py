"""`capture(fn)`: a function of tensors becomes a fixed plan that is replayed.

    step = baremetal.capture(training_step)
    loss = step(inputs, targets)      # the first call runs the function, and writes it down
    loss = step(inputs, targets)      # every later one copies the inputs in and walks the plan

The inputs are arrays. The function gets buffers of the capture's own, in which every later call
puts its new values; what it returns are tensors (or arrays) whose memory each call overwrites: the
same objects every time. A number that is to last is read off them (`loss.item()`), an array copied.
The gradient of an input is that of our copy of it: return it (`x.grad`).
A result counts the call as a change in place, so that a backward which had saved it says so. A
parameter does not: keep no tape of an eager forward across a call that updates its weights.
Anything else that should change from step to step must lie in a buffer that the function reads by a
launch: the optimisers' learning rate and the dropout's step do (`Optimizer.scalars`,
`DropoutState`).

What Python does in the function happens once, while it is recorded:

    a loop or a branch        the path taken is the plan
    a number                  is frozen, unless it lies in a buffer
    reading a tensor's value  is refused: `.item()`, `float(loss)`, `if loss > 3:`
    a NumPy array made inside is a constant from then on
    printing, counting        happens in the first call and never again
    writing by NumPy          is refused, where it can be seen (`unseen.py`)
    `zero_grad()`, `x.grad`   which gradients there are must be as it was (`leaves.py`)

State (moments, an arena) must exist before the first call: what the function makes and keeps, the
replay makes anew each time.

If the first call raises, what its launches have changed is put back (`undo.py`), and the next call
records. In a later call everything that can be wrong with the inputs is looked at before the first
launch. Should it stop half-way all the same (`stopped.py`), it says how far it came, and whether
anything outside the step's own memory was changed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from baremetal.autograd import CPU, Device, Parameter, Tensor
from baremetal.autograd.op import owner
from baremetal.autograd.structure import leaves, mapped
from baremetal.capture.errors import CaptureError
from baremetal.capture.fusion import FusionRow, chosen_fusions, compare_fusions, fuse_recording
from baremetal.capture.leaves import Leaves, refuse_inside_recording
from baremetal.capture.measure import measure_plan
from baremetal.capture.native import NativeStep
from baremetal.capture.plan import Plan, make_plan
from baremetal.capture.recording import RecordedCheck, Recording, record
from baremetal.capture.replay import Replay
from baremetal.capture.stale import ResultVersion
from baremetal.capture.undo import Kept, Undo
from baremetal.capture.unseen import refuse_unseen_changes
from baremetal.trace import Trace

Level = Literal["replay", "native", "native-exact"]
LEVELS = get_args(Level)
LOOK = -1  # no number of changes: look at the leaves in the next call


class Captured:
    """What `capture` returns: call it like the function it was made from.

    Attributes:
        function: the original.
        calls: how many calls there were, the recorded one included.
        fusions: the names of the fusions that are done.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: Device,
        level: Level,
        named: Callable[[], Mapping[str, np.ndarray]],
        fusions: Sequence[str] = (),
    ) -> None:
        self.function = function
        self.fusions = fusions
        self.calls = 0
        self.level = level
        self._device = device
        self._named = named
        self._native: NativeStep | None = None
        self._name = _name_of(function)
        self._inputs: tuple[Any, ...] = ()  # our arrays, and what is frozen between them
        self._arrays: list[np.ndarray] = []  # the arrays alone
        self._returns_inputs = False
        self._expected: list[tuple[Any, Any, Any]] = []  # all, with shape and dtype of arrays
        self._checks: Sequence[RecordedCheck] = ()
        self._returned: Any = None
        self._recording: Recording | None = None
        self._leaves = Leaves([])
        self._leaf_changes = LOOK  # how many there were when the leaves were last looked at
        self._replay: Replay | None = None
        self._run: Callable[[], None] = _not_recorded

    def __repr__(self) -> str:
        state = "not called yet" if self._replay is None else f"{len(self.plan.launches)} launches"
        return f"<captured {self._name}: {state}>"

    def __call__(self, *inputs: Any) -> Any:
        """Run the function (first call) or replay it.

        Args:
            inputs: arrays or tensors; in later calls of the same shapes and dtypes. Other objects
                (numbers, strings) are frozen and must be equal in every call.

        Raises:
            CaptureError: an input of another shape or dtype, a frozen one that differs, arrays
                within a container; a parameter that has moved, or has a gradient where it had none;
                another recording is open; or the step stopped half-way (the message says what that
                means for the parameters).
            BaremetalError: what the function's own checks raise (a token outside the vocabulary).
        """
        if self._replay is None:
            returned = self._record(inputs)
        else:
            must_look = self._device.leaf_changes != self._leaf_changes
            if must_look:
                refuse_inside_recording(self._device, self._name)
                self._leaves.check(self._name)
            self._copy_in(inputs)
            self._run()
            if must_look:
                self._note_leaves()
            returned = self._returned
        self.calls += 1
        return returned

    @property
    def plan(self) -> Plan:
        """What was recorded.

        Raises:
            CaptureError: the function was not called yet.
        """
        if self._replay is None:
            raise CaptureError(f"{self._name} has no plan yet: call it once, which records it")
        return self._replay.plan

    @property
    def source(self) -> str:
        """The step as a program, to read: what level "native" compiles.

        Raises:
            CaptureError: not called yet, or a kernel in it has no compiled version.
        """
        _ = self.plan  # says what is missing, if anything is
        assert self._replay is not None
        native = self._written(self._replay) if self._native is None else self._native
        return native.source

    def _written(self, replay: Replay) -> NativeStep:
        """The plan as a program."""
        named = {f"input_{n}": array for n, array in enumerate(self._arrays)}
        named |= self._named()
        return NativeStep(replay, self._name, named, inlined=self.level != "native-exact")

    def measure(self, repeats: int = 3) -> Trace:
        """Run the plan launch by launch on the last inputs and time each; see `measure.py`.

        It really does the step: weights move. Raises CaptureError before the first call.
        """
        plan = self.plan  # says what is missing, if anything is
        assert self._replay is not None
        self._check()
        return measure_plan(plan, self._replay, repeats)

    def compare_fusions(self, rounds: int = 7) -> list[FusionRow]:
        """What each fusion of the plan saves, counted and timed; see `fusion/compare.py`.

        It really does the step, many times: weights move. Raises CaptureError before the first
        call.
        """
        _ = self.plan  # says what is missing, if anything is
        assert self._recording is not None
        self._check()
        return compare_fusions(self._recording, self.fusions, rounds)

    def _record(self, inputs: tuple) -> Any:
        refuse_inside_recording(self._device, self._name)
        own = tuple(_own(value) for value in inputs)
        self._inputs = tuple(x.data if isinstance(x, Tensor) else x for x in own)
        self._arrays = [x for x in self._inputs if type(x) is np.ndarray]
        self._expected = [
            (x, getattr(x, "shape", None), getattr(x, "dtype", None)) for x in self._inputs
        ]
        with Undo() as undo:  # whatever goes wrong on the way, the weights are as before
            returned, recording = record(self.function, own, self._device, undo)
            passed = [_kept(x, y) for x, y in zip(self._inputs, inputs, strict=True)]
            kept = [*undo.kept, *filter(None, passed)]
            refuse_unseen_changes(self._name, kept, recording.launches)
            self._returned = mapped(returned, partial(self._as_result, recording))
            del returned  # with it goes the tape, and what only the tape kept alive
            recording.find_kept()
            self._leaves = recording.leaf_notes.leaves(self._is_input)
            plan = make_plan(*fuse_recording(recording, self.fusions))
            self._checks = plan.checks
            replay = Replay(plan, native=self._device.kernels == "native")
            self._run = replay.run
            if self.level != "replay":
                self._native = self._written(replay)
                self._native.compile()
                self._run = self._native.run
        self._recording = recording
        self._replay = replay  # now, and not before: a failed recording begins anew
        self._note_leaves()
        self._returns_inputs = any(
            self._is_input(x.data if isinstance(x, Tensor) else x) for x in leaves(self._returned)
        )
        return self._returned

    def _note_leaves(self) -> None:
        """The step has run: nobody need look at its leaves until one of them changes."""
        self._leaves.set_as_recorded()
        always = self._leaves.depends_on_itself
        self._leaf_changes = LOOK if always else self._device.leaf_changes

    def _is_input(self, array: Any) -> bool:
        """Whether this is the memory of one of our inputs."""
        return any(owner(array) is owner(own) for own in self._arrays)

    def _as_result(self, recording: Recording, value: Any) -> Any:
        """A returned tensor off the tape, which belongs to the first call only."""
        if not isinstance(value, Tensor):
            return value
        lent = recording.operand(value.data).buffer is not None
        if lent or self._is_input(value.data):
            return value.made_by_op(value.data, None, ResultVersion(value.version, self))
        return value.detach()  # a parameter, say: no call overwrites it because it was returned

    def _copy_in(self, inputs: tuple) -> None:
        """Put the new inputs where the plan expects them; everything is checked before a launch."""
        if len(inputs) != len(self._inputs):
            raise CaptureError(
                f"{self._name} was captured with {len(self._inputs)} inputs, got {len(inputs)}"
            )
        if self._returns_inputs:  # one result may be the next call's other input
            inputs = tuple(_own(value) for value in inputs)
        # Usually arrays of the right kind: a small step is as long as a few such lines.
        for (own, shape, dtype), given in zip(self._expected, inputs, strict=True):
            if type(given) is np.ndarray and given.shape == shape and given.dtype is dtype:
                own[...] = given
            else:
                self._copy_unusual(own, given)
        if self._checks:
            self._check()

    def _check(self) -> None:
        """What the function checks of values from outside, before anything is launched."""
        for check in self._checks:
            check.function(*check.arrays)

    def _copy_unusual(self, own: Any, given: Any) -> None:
        """A tensor, an equal dtype that is another object, something frozen: or refuse it."""
        array = given.data if isinstance(given, Tensor) else _frozen(given)
        if isinstance(array, np.ndarray) and isinstance(own, np.ndarray):
            fits = array.shape == own.shape and array.dtype == own.dtype
        else:
            fits = array is own or (type(array) is type(own) and array == own)
        if not fits:
            position = next(i for i, mine in enumerate(self._inputs) if mine is own)
            self._refuse_input(position, own, given)
        if isinstance(own, np.ndarray):
            own[...] = array

    def _refuse_input(self, position: int, own: Any, given: Any) -> None:
        """Say what is wrong with this input."""
        if type(own) is not np.ndarray:
            raise CaptureError(
                f"input {position} of {self._name} is {given!r}, but {own!r} was frozen when it "
                "was captured: pass an array for what changes, or capture again"
            )
        if not isinstance(given, (np.ndarray, Tensor)):
            raise CaptureError(
                f"input {position} of {self._name} is a {type(given).__name__}, but was captured "
                f"as an array of shape {own.shape}: pass an array"
            )
        raise CaptureError(
            f"input {position} of {self._name} has shape {given.shape} {given.dtype}, but was "
            f"captured with shape {own.shape} {own.dtype}: a plan is made for one shape and dtype; "
            "capture again for another"
        )


def capture(
    function: Callable[..., Any],
    *,
    device: Device = CPU,
    level: Level = "replay",
    named: Callable[[], Mapping[str, np.ndarray]] = dict,
    fuse: bool | str | Sequence[str] = True,
) -> Captured:
    """A function that is recorded when it is first called and replayed from then on.

    Args:
        function: takes arrays (or tensors) and returns tensors, arrays, or tuples, lists or dicts
            of them.
        device: where it launches.
        level: "replay" walks the list of launches; "native" compiles it into one function;
            "native-exact" does so without inlining small kernels, for the replay's bits.
        named: gives what lives outside the step names, for the reader of the program.
        fuse: whether launches over the same memory become one (`fusion/`): True for all fusions,
            False for none, or the names of some. The bits are the same either way.

    Raises:
        CaptureError: an unknown level or fusion.
    """
    if level not in LEVELS:
        raise CaptureError(f"level {level!r}: choose one of {', '.join(LEVELS)}")
    fusions = chosen_fusions(fuse) if device.kernels == "native" else ()
    return Captured(function, device, level, named, fusions)


def _not_recorded() -> None:
    raise AssertionError("the first call records")


def _name_of(function: Callable[..., Any]) -> str:
    """What to call it; the same in every process, since it stands in the compiled step."""
    inner = function.func if isinstance(function, partial) else function
    return getattr(inner, "__name__", type(inner).__name__)


def _frozen(value: Any) -> Any:
    """A container as it is now, to be compared with what it holds later; all else as it is.

    Raises:
        CaptureError: there are arrays in it, which would be constants.
    """
    if isinstance(value, (np.ndarray, Tensor)):
        return value
    if any(isinstance(leaf, (np.ndarray, Tensor)) for leaf in leaves(value)):
        raise CaptureError(
            f"an input is a {type(value).__name__} with arrays in it, which a replay would not "
            "copy: pass each array as an input of its own"
        )
    return mapped(value, lambda leaf: leaf)


def _kept(own: Any, given: Any) -> Kept | None:
    """What an input held before the function got it."""
    if type(own) is not np.ndarray or own.size == 0:
        return None
    content = np.array(given.data if isinstance(given, Tensor) else given, own.dtype, order="C")
    return Kept(own.ctypes.data, content.reshape(-1).view(np.uint8), own)


def _own(value: Any) -> Any:
    """A copy of an input in memory that stays ours."""
    if isinstance(value, Parameter):
        raise CaptureError(
            f"an input is the parameter '{value.name}' {value.shape}, of which the function would "
            "get a copy, and the copy the gradient: let the function find its parameters by itself"
        )
    if isinstance(value, Tensor):
        if value.node is not None:
            raise CaptureError(
                f"an input of shape {value.shape} was made by '{value.node.op.name}' on the tape: "
                "gradients cannot leave a captured function; detach() it"
            )
        return Tensor(value.data.copy(), value.requires_grad, device=value.device, name=value.name)
    return np.array(value, order="C") if isinstance(value, np.ndarray) else _frozen(value)
