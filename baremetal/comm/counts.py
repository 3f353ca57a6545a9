"""What happened on a rank's channels: messages, waiting, and everything that went wrong."""

from dataclasses import dataclass


@dataclass
class Counts:
    """Of one rank since it joined.

    Attributes:
        sent, received: messages.
        copied: messages that were computed elsewhere, and copied into their slot to be sent.
        sent_bytes, received_bytes: their payloads, B.
        waits: how often a first look was not enough.
        waited_ns: real time spent waiting, ns.
        damaged: messages whose checksum differed.
        duplicated: old messages met in the place of a new one.
        out_of_order: later messages met in the place of an earlier one.
        requested: messages asked for again.
        resent: messages sent again because somebody asked.
    """

    sent: int = 0
    received: int = 0
    copied: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    waits: int = 0
    waited_ns: int = 0
    damaged: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    requested: int = 0
    resent: int = 0
