"""A generation of training software: what its kernels do, and what it hides.

Published runs span five years, and the same plan on the same chip became faster because software
did. What changed is said here as data, a few numbers with a meaning each, never one per run.
"""

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from baremetal.cluster.errors import ClusterError
from baremetal.machine.errors import nearest

DATA = Path(__file__).parent / "data" / "software"


@dataclass(frozen=True)
class Software:
    """What a generation of software does.

    Attributes:
        name: ``"nemo-2025"``.
        fused_attention: scores never go through memory (FlashAttention, arXiv 2205.14135).
        causal_attention: what the mask hides is not computed.
        recomputes_core: selective recomputation does the attention core again; with fused
            attention there is nothing to save by it.
        hides_tp, hides_cp, hides_ep, hides_dp: share of the exchanges of each group that runs
            beside arithmetic, at best.
        host_overhead_s: s from one launch to the next where the host is the limit.
        stream_passes: how many times the bytes move that the ideal fused kernels would move.
        gradient_bytes: of a weight's gradient as data parallel ranks exchange it.
        weight_bytes: of a weight as it is computed with, copies counted.
        dropout: there is some, whose masks are kept.
        splits_checkpoints: what full recomputation keeps is split over tp.
        straggling: share of a step lost to waiting for the slowest rank.
    """

    name: str
    fused_attention: bool = True
    causal_attention: bool = True
    recomputes_core: bool = False
    hides_tp: float = 0.0
    hides_cp: float = 0.8
    hides_ep: float = 0.0
    hides_dp: float = 0.9
    host_overhead_s: float = 0.0
    stream_passes: float = 1.0
    gradient_bytes: float = 4.0
    weight_bytes: float = 2.0
    dropout: bool = False
    splits_checkpoints: bool = True
    straggling: float = 0.0


@cache
def find_software(name: str) -> Software:
    """The generation of this name.

    Raises:
        ClusterError: unknown, with the nearest known name.
    """
    known = sorted(path.stem for path in DATA.glob("*.toml"))
    if name not in known:
        raise ClusterError(
            f"unknown software '{name}': {nearest(name, known)}there are {', '.join(known)}"
        )
    values = tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))
    known_fields = {field.name for field in fields(Software)}
    if unknown := sorted(values.keys() - known_fields):
        raise ClusterError(f"software {name}: unknown field '{unknown[0]}' in its file")
    return Software(**values)
