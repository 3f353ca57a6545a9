"""The supervisor: starts the ranks, tells them what to do, and sees to it that all end together.

Four processes that wait for one another fail in four ways: one raises, one dies, one hangs, or
whoever started them is gone. In each case the others would wait for ever. So the process that
started them watches:

    it raises     the rank says so on its control pipe, with what it was doing
    it dies       its process ends without a word; what it was doing stands on the board
    it hangs      the board's progress stands still for longer than a limit (`patience.py`)
    we are gone   a thread in each rank waits for the supervisor's end, and ends the rank
                  (`rank_process.py`)

and ends the run: the abort word wakes everybody who waits, whoever is not gone within a grace
period is killed, and one message names the rank, the action and the cause. When a rank dies, its
neighbours soon complain that they were woken; those are consequences and are not reported.

Two threads share that. The one that gives commands waits for the answers, and for the end of any
rank. Beside it a watcher looks at the board and at the processes, whatever the other one does: it
kills a rank that hangs (so that even a half-written answer comes to an end), and when a rank dies
while nothing is asked of it, it interrupts the leading thread's own work (`interruption.py`).

Commands and their answers are pickled through pipes: they are few, small, and not the data path.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from baremetal.pipeline.board import Board
from baremetal.pipeline.errors import RankError
from baremetal.pipeline.interruption import Interrupted, Interruption
from baremetal.pipeline.patience import Limits, Patience, describe_hang, is_stopped
from baremetal.pipeline.rank_process import Reply, deaf_to_signals, run_rank
from baremetal.pipeline.words import describe_end, describe_state

POLL_S = 0.05  # how often the board is looked at

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
        self._over = threading.Event()
        self._patience: Patience | None = None  # while answers are waited for
        self._hangs: dict[int, str] = {}  # what is said of a rank that hung
        self._interruption = Interruption()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self.on_wait: Callable[[], None] = lambda: None
        context = multiprocessing.get_context("spawn")
        try:
            for rank, setup in enumerate(setups):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=run_rank, args=(main, rank, setup, theirs), name=f"rank {rank}"
                )
                with deaf_to_signals():
                    process.start()
                theirs.close()  # only the rank holds it: its end is the end of the pipe
                self._pipes.append(ours)
                self._processes.append(process)
            self._watcher.start()
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
        if self._over.is_set():
            raise RankError(-1, "the run is over: its ranks were ended")
        asked = list(commands)
        with self._interruption.finishing():  # whatever happens meanwhile is seen here
            self._patience = patience = Patience(self.board, self._limits, asked, self._is_stopped)
            try:
                for rank, command in commands.items():
                    self._send(rank, command)
                results = self._collect(asked, patience)
            finally:
                self._patience = None
        return [results[rank] for rank in asked]

    def _send(self, rank: int, message: Any) -> None:
        try:
            self._pipes[rank].send(message)
        except (BrokenPipeError, OSError):
            self._fail(rank, self._end_of(rank))

    def _collect(self, asked: Sequence[int], patience: Patience) -> dict[int, Any]:
        """Wait for the answers, with an eye on everybody."""
        results: dict[int, Any] = {}
        while len(results) < len(asked):
            for rank in self._ready(patience.asked):
                reply = self._receive(rank)
                if reply is None:
                    self._fail(rank, self._end_of(rank))
                if reply.is_error:
                    self._fail_by(rank, reply)
                results[rank] = reply.result
                patience.asked -= {rank}
            self.on_wait()
        return results

    def _ready(self, waiting: frozenset[int]) -> list[int]:
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

    # ------------------------------------------------------------ between commands

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work of the main thread between commands that the death of a rank ends.

        Within one native call it is not ended before that returns; what is inside `finishing` has
        the grace period to be done.

        Raises:
            RankError: a rank died meanwhile; all are gone by then.
        """
        try:
            with self._interruption.allowed():
                yield
            return
        except Interrupted:
            pass
        dead = next(rank for rank in range(len(self)) if not self._processes[rank].is_alive())
        self._fail(dead, self._end_of(dead))

    def finishing(self) -> AbstractContextManager[Any]:
        """A part of such work that had better be finished than broken off."""
        return self._interruption.finishing()

    # ------------------------------------------------------------ the watcher's thread

    def _watch(self) -> None:
        """Until the end of the run."""
        sentinels = [process.sentinel for process in self._processes]
        while not self._over.wait(POLL_S):
            if (patience := self._patience) is not None:
                self._end_who_hangs(patience)
            elif wait(sentinels, 0):
                self._interruption.interrupt(self._limits.grace_s, self._is_noticed)

    def _end_who_hangs(self, patience: Patience) -> None:
        found = patience.exhausted()
        if found is not None:
            rank, time_s = found
            self._hangs[rank] = f"{self._where(rank)}: {describe_hang(time_s)}"
            self._processes[rank].kill()

    def _is_noticed(self) -> bool:
        """Whether the commanding thread sees by itself that a rank is no more."""
        return self._over.is_set() or self._patience is not None

    def _is_stopped(self, rank: int) -> bool:
        return is_stopped(self._processes[rank].pid)

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
                    self._fail(other, self._end_of(other))
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

    def _end_of(self, rank: int) -> str:
        """Why a rank is no more: it was found to hang, or ended by itself."""
        if rank in self._hangs:
            return self._hangs[rank]
        process = self._processes[rank]
        process.join(self._limits.grace_s)
        end = describe_end(process.exitcode)
        return f"{self._where(rank)}: its process ended without a word ({end})"

    def close(self) -> None:
        """End all ranks, whatever they are doing; returns when they are gone."""
        self._over.set()
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
        if self._watcher.ident is not None:  # it was started
            self._watcher.join()
