"""The supervisor: starts the ranks, tells them what to do, and sees to it that all end together.

Four processes that wait for one another fail in four ways: one raises, one dies, one hangs, or
whoever started them is gone. In each case the others would wait for ever. So the process that
started them watches:

    it raises     the rank says so on its control pipe, with what it was doing
    it dies       its process ends without a word; what it was doing stands on the board
    it hangs      the board's progress stands still for longer than a limit, while it computes or
                  waits (who is compiling is exempt: that may take long; and a long native call is
                  none, for it counts its launches on the board)
    we are gone   a thread in each rank waits for the supervisor's end, and ends the rank

and ends the run: the abort word wakes everybody who waits, whoever is not gone within a grace
period is killed, and one message names the rank, the action and the cause. When a rank dies, its
neighbours soon complain that they were woken; those are consequences and are not reported.

Commands and their answers are pickled through pipes: they are few, small, and not the data path.
"""

import contextlib
import multiprocessing
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, NoReturn

from baremetal.comm import AbortedError
from baremetal.errors import BaremetalError
from baremetal.pipeline.board import Board, State, Status
from baremetal.pipeline.errors import RankError
from baremetal.pipeline.words import describe_end, describe_state

POLL_S = 0.05  # how often the board is looked at
OURS_TO_ANSWER = (signal.SIGINT, signal.SIGTERM)  # a terminal sends Ctrl-C to the ranks as well


@dataclass(frozen=True)
class Limits:
    """How long to wait for what, in seconds.

    Attributes:
        hang_s: without any progress, while computing or waiting.
        start_s: until a rank has started and says what it does.
        grace_s: between the end of the run and the killing of who is still there.
    """

    hang_s: float = 60.0
    start_s: float = 120.0
    grace_s: float = 2.0


class Reply(NamedTuple):
    """What a rank answers."""

    is_error: bool
    result: Any  # or the error's text
    is_consequence: bool = False  # it was only woken, because something else went wrong
    is_ours: bool = True  # a BaremetalError: its text is meant to be read


Describe = Callable[[int, int, int], str]  # (rank, step, action) in words


class Supervisor:
    """The processes of a run.

    Args:
        main: what each rank runs: `main(rank, setup, serve)`; a function of a module (it is
            imported by name in the new process). It builds an object and calls ``serve(object)``.
        setups: for each rank what it needs to begin; pickled.
        board: written by the ranks.
        describe: (rank, step, action) in words, for messages.
        limits: patience.
        names: of the ranks, for messages; "rank 0" and so on unless given.

    Attributes:
        on_wait: called every now and then while answers are waited for.

    Raises:
        RankError: a rank did not start.
    """

    def __init__(
        self,
        main: Callable[..., None],
        setups: Sequence[Any],
        board: Board,
        describe: Describe,
        limits: Limits | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.board = board
        self._names = names or [f"rank {rank}" for rank in range(len(setups))]
        self._describe = describe
        self._limits = limits or Limits()
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        self._is_over = False
        self.on_wait: Callable[[], None] = lambda: None
        context = multiprocessing.get_context("spawn")
        try:
            for rank, setup in enumerate(setups):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_run_rank, args=(main, rank, setup, theirs), name=f"rank {rank}"
                )
                with _deaf_to_signals():
                    process.start()
                theirs.close()  # only the rank holds it: its end is the end of the pipe
                self._pipes.append(ours)
                self._processes.append(process)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._processes)

    def __enter__(self) -> "Supervisor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def process_ids(self) -> list[int]:
        """The operating system's numbers of the ranks."""
        return [process.pid for process in self._processes]

    # ------------------------------------------------------------ commands

    def call(self, method: str, *args: Any, ranks: Sequence[int] | None = None) -> list[Any]:
        """Call a method of the ranks' objects, of all at once, and wait for all answers.

        Args:
            method: its name.
            args: the same for all; pickled.
            ranks: only these.

        Returns:
            Their results, in the order of the ranks.

        Raises:
            RankError: one of them raised, died or hangs; all are gone by then.
        """
        asked = list(range(len(self))) if ranks is None else list(ranks)
        return self._call(dict.fromkeys(asked, (method, args)))

    def call_each(self, method: str, args: Sequence[tuple]) -> list[Any]:
        """`call` of all ranks, each with arguments of its own: one tuple for each rank."""
        return self._call({rank: (method, own) for rank, own in enumerate(args)})

    def _call(self, commands: dict[int, tuple[str, tuple]]) -> list[Any]:
        if self._is_over:
            raise RankError(-1, "the run is over: its ranks were ended")
        for rank, command in commands.items():
            self._send(rank, command)
        results = self._collect(list(commands))
        return [results[rank] for rank in commands]

    def _send(self, rank: int, message: Any) -> None:
        try:
            self._pipes[rank].send(message)
        except (BrokenPipeError, OSError):
            self._fail(rank, self._death(rank))

    def _collect(self, asked: Sequence[int]) -> dict[int, Any]:
        """Wait for the answers, with an eye on everybody."""
        results: dict[int, Any] = {}
        patience = _Patience(self.board, self._limits, asked)
        while len(results) < len(asked):
            for rank in self._ready(set(asked) - set(results)):
                reply = self._receive(rank)
                if reply is None:
                    self._fail(rank, self._death(rank))
                if reply.is_error:
                    self._fail_by(rank, reply)
                results[rank] = reply.result
            self.on_wait()
            stuck = patience.exhausted_by(set(asked) - set(results))
            if stuck is not None:
                self._fail(stuck, self._hang(stuck))
        return results

    def _ready(self, waiting: set[int]) -> list[int]:
        """The ranks that have something to say, or are no more."""
        pipes = {self._pipes[rank]: rank for rank in waiting}
        ends = {process.sentinel: rank for rank, process in enumerate(self._processes)}
        found = wait([*pipes, *ends], POLL_S)
        # A rank may answer and end at once: what it says comes first.
        speaking = [pipes[one] for one in found if one in pipes]
        return speaking or [ends[one] for one in found if one in ends]

    def _receive(self, rank: int) -> Reply | None:
        """What the rank says; None if it is no more."""
        try:
            return self._pipes[rank].recv() if self._pipes[rank].poll() else None
        except (EOFError, OSError):
            return None

    # ------------------------------------------------------------ the end

    def _fail_by(self, rank: int, reply: Reply) -> NoReturn:
        """A rank has raised. If it was only woken, look for whose fault that is."""
        if not reply.is_consequence:
            self._fail(rank, f"{self._where(rank)}: {reply.result}")
        self.board.abort("another rank failed")
        deadline = time.monotonic() + self._limits.grace_s
        while time.monotonic() < deadline:
            for other, process in enumerate(self._processes):
                said = self._receive(other) if self._pipes[other].poll() else None
                if said is not None and said.is_error and not said.is_consequence:
                    self._fail(other, f"{self._where(other)}: {said.result}")
                if not process.is_alive() and said is None and other != rank:
                    self._fail(other, self._death(other))
            wait([process.sentinel for process in self._processes], POLL_S)
        self._fail(rank, f"{self._where(rank)}: {reply.result}")

    def _fail(self, rank: int, message: str) -> NoReturn:
        self.close()
        raise RankError(rank, message)

    def _where(self, rank: int) -> str:
        status = self.board.status(rank)
        doing = describe_state(status)
        if doing is None:
            doing = self._describe(rank, status.step, status.action)
            if status.waits_for is not None:
                doing += ", while it waited for a neighbour"
        return f"{self._names[rank]}, {doing}"

    def _death(self, rank: int) -> str:
        process = self._processes[rank]
        process.join(self._limits.grace_s)
        end = describe_end(process.exitcode)
        return f"{self._where(rank)}: its process ended without a word ({end})"

    def _hang(self, rank: int) -> str:
        return (
            f"{self._where(rank)}: no progress for {self._limits.hang_s:g} s; it was ended with "
            "all others (a longer patience: --hang-limit)"
        )

    def close(self) -> None:
        """End all ranks, whatever they are doing; returns when they are gone."""
        self._is_over = True
        self.board.abort("the run is over")
        for pipe in self._pipes:
            pipe.close()  # who waits for a command sees its end
        deadline = time.monotonic() + self._limits.grace_s
        for process in self._processes:
            process.join(max(deadline - time.monotonic(), 0.0))
        for process in self._processes:
            if process.exitcode is None:
                process.kill()  # a stopped or endlessly computing process hears nothing else
            process.join()


class _Patience:
    """Who has done nothing new for too long.

    A waiting rank is not to blame as long as somebody else is at work. Only if all that are asked
    wait is something amiss that no rank will ever tell: a message that was lost on the way.
    """

    def __init__(self, board: Board, limits: Limits, ranks: Sequence[int]) -> None:
        self._board, self._limits = board, limits
        now = time.monotonic()
        self._seen = {rank: (board.status(rank).begun, now) for rank in ranks}

    def exhausted_by(self, waiting: set[int]) -> int | None:
        """A rank that is stuck, if there is one."""
        now = time.monotonic()
        late: list[int] = []
        at_work = False
        for rank in sorted(waiting):
            status = self._board.status(rank)
            begun, since = self._seen[rank]
            if status.begun != begun:
                self._seen[rank] = status.begun, now
            elif now - since > self._limit_s(status):
                late.append(rank)
                continue
            at_work = at_work or status.waits_for is None
        stuck = [rank for rank in late if self._board.status(rank).waits_for is None]
        if stuck:
            return stuck[0]
        return late[0] if late and not at_work else None

    def _limit_s(self, status: Status) -> float:
        if status.state == State.PREPARING or status.is_compiling:
            return float("inf")
        return self._limits.start_s if status.state == State.STARTING else self._limits.hang_s


# ---------------------------------------------------------------- in the rank's process


def _run_rank(main: Callable[..., None], rank: int, setup: Any, pipe: Connection) -> None:
    """What a new process begins with."""
    for number in OURS_TO_ANSWER:
        signal.signal(number, signal.SIG_IGN)
    _end_with_the_supervisor()

    def serve(worker: Any) -> None:
        _serve(worker, pipe)

    try:
        main(rank, setup, serve)
    except BaseException as error:
        _answer(pipe, _reply_of(error))
        raise SystemExit(1) from None


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """Processes that are started inside do not even hear Ctrl-C while they import Python."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # at its own start it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OURS_TO_ANSWER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_the_supervisor() -> None:
    """A thread that waits for the supervisor's end, and then ends this process at once."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        import os

        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="supervisor's end", daemon=True).start()


def _serve(worker: Any, pipe: Connection) -> None:
    """Do what is asked, until the pipe ends."""
    while True:
        try:
            method, args = pipe.recv()
        except (EOFError, OSError):
            return
        _answer(pipe, Reply(False, getattr(worker, method)(*args)))


def _answer(pipe: Connection, reply: Reply) -> None:
    with contextlib.suppress(OSError):  # nobody is there to read it
        pipe.send(reply)


def _reply_of(error: BaseException) -> Reply:
    """An error as text: ours say what to do, of others the place is what helps."""
    if isinstance(error, BaremetalError):
        return Reply(True, str(error), isinstance(error, AbortedError))
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{last.filename}:{last.lineno}"
    return Reply(True, f"{type(error).__name__}: {error} ({where})", is_ours=False)
