"""How ranks reach each other: clocks, links, and lanes that carry arrays, here or by MPI.

A run's lanes are known before it starts (`Lane`, `Layout`). In shared memory the process that
starts the ranks makes an `Exchange`, and each rank joins it by an `Endpoint`; under MPI each rank
makes an `MpiEndpoint` (`comm/mpi.py`) from the same layout. Both give the same senders and
receivers (`comm/channel.py`), with the same modelled times.
"""

from baremetal.comm.board import Board, WaitingFor
from baremetal.comm.channel import Receiver, Sender
from baremetal.comm.checksum import checksum
from baremetal.comm.clock import Clock, VirtualClock, WallClock
from baremetal.comm.counts import Counts
from baremetal.comm.endpoint import Address, Endpoint, Exchange
from baremetal.comm.errors import AbortedError, CommError, CorruptionError, SequenceError
from baremetal.comm.faults import MessageFault, Wrong
from baremetal.comm.layout import Lane, Layout, make_layout
from baremetal.comm.leftovers import sweep_leftovers
from baremetal.comm.link_queue import LinkQueue, Transfer
from baremetal.comm.shared_memory import SharedMemory

__all__ = [
    "AbortedError",
    "Address",
    "Board",
    "Clock",
    "CommError",
    "CorruptionError",
    "Counts",
    "Endpoint",
    "Exchange",
    "Lane",
    "Layout",
    "LinkQueue",
    "MessageFault",
    "Receiver",
    "Sender",
    "SequenceError",
    "SharedMemory",
    "Transfer",
    "VirtualClock",
    "WaitingFor",
    "WallClock",
    "Wrong",
    "checksum",
    "make_layout",
    "sweep_leftovers",
]
