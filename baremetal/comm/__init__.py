"""How ranks reach each other: clocks, links, channels."""

from baremetal.comm.board import Board, WaitingFor
from baremetal.comm.channel import Receiver, Sender
from baremetal.comm.clock import Clock, VirtualClock, WallClock
from baremetal.comm.endpoint import Address, Endpoint, Exchange
from baremetal.comm.errors import AbortedError, CommError, CorruptionError, SequenceError
from baremetal.comm.faults import MessageFault, Wrong
from baremetal.comm.layout import Lane, Layout
from baremetal.comm.link_queue import Transfer
from baremetal.comm.shared_memory import SharedMemory

__all__ = [
    "AbortedError",
    "Address",
    "Board",
    "Clock",
    "CommError",
    "CorruptionError",
    "Endpoint",
    "Exchange",
    "Lane",
    "Layout",
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
]
