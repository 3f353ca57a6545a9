"""Ranks that fail in every way. Imported by name, so that processes can be spawned."""

import inspect
import os
import signal
import struct
import threading

from baremetal import comm
from baremetal.errors import BaremetalError
from baremetal.pipeline.board import Board, State


class Dummy:
    """A rank without a model."""

    def __init__(self, rank, address):
        self.rank = rank
        self.endpoint = comm.Endpoint(address, rank)
        self.board = Board(self.endpoint.board.memory, address.layout.ranks)

    def echo(self, word):
        self.board.say(self.rank, State.IDLE, 0)
        return self.rank, word

    def answer_half(self):
        """Rank 1 is stopped when it has said how long its answer is."""
        if self.rank == 1:
            os.write(self.pipe.fileno(), struct.pack("!i", 1 << 20))
            os.kill(os.getpid(), signal.SIGSTOP)

    def stop_while_it_compiles(self, who):
        """Rank `who` is; the others wait for a message that never comes."""
        self.board.say(self.rank, State.PREPARING, 0)
        if self.rank == who:
            self.board.compiling(who, True)
            os.kill(os.getpid(), signal.SIGSTOP)
        next(iter(self.endpoint.receivers.values())).arrival(0)

    def fail(self, who, how):
        """Rank `who` fails; the others wait for a message that never comes."""
        self.board.say(self.rank, State.COMPUTING, 7, 3)
        if self.rank == who:
            getattr(self, how)()
        else:
            next(iter(self.endpoint.receivers.values())).arrival(0)

    def raises(self):
        raise BaremetalError("it went wrong: mend it")

    def raises_unexpectedly(self):
        raise KeyError("nobody thought of this")

    def dies(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def exits(self):
        os._exit(3)

    def hangs(self):
        threading.Event().wait()


def run_dummy(rank, address, serve):
    dummy = Dummy(rank, address)
    dummy.pipe = inspect.getclosurevars(serve).nonlocals["pipe"]
    serve(dummy)


def run_late(rank, address, serve):
    raise BaremetalError(f"rank {rank} cannot begin")
