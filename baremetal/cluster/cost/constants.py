"""What a chip and its links reach of their data sheets: a few constants per chip, with a meaning.

A data sheet says what is possible, these say how much of it large programs get. They are measured
(by kernel, where somebody published that) or fitted once to published runs, never to one run; the
file of each chip, `data/chips/*.toml`, says which, and `baremetal validate --fit` finds them again.

A chip without a file of its own gets what its description states as efficiency, and the common
values below for everything else.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from baremetal.cluster.errors import ClusterError
from baremetal.machine.chip import SAME_RATE, Chip

DATA = Path(__file__).parent / "data" / "chips"


@dataclass(frozen=True)
class Constants:
    """Of a chip, as far as it is known.

    Attributes:
        most: share of the dense peak that endless matrix products reach, by precision: what power,
            clocks and kernels leave of it.
        half_k: depth k of a product at which half of that is reached: filling a tile's pipeline.
        half_area: rows times columns at which half is: filling the chip with tiles.
        attention, attention_backward: share of the bf16 peak that fused attention reaches.
        half_rows: rows of each expert at which products of many experts reach half of what one
            whole product does.
        memory: share of the memory's rate that streams reach.
        scale_up, network: share of a link's rate that large collectives reach.
        scale_up_alpha_s, network_alpha_s: s for each step of a ring inside and between domains.
        start_s: s of a collective before anything moves.
        launch_s: s between kernels that follow each other.
    """

    most: Mapping[str, float] = field(default_factory=dict)
    half_k: float = 169.0  # half_k, half_area: B200, 514 shapes of SimuMax's kernel measurements
    half_area: float = 494_000.0
    attention: float = 0.55
    attention_backward: float = 0.45
    half_rows: float = 264.0  # B200, forward and input gradient: SimuMax's kernel measurements
    memory: float = 0.8
    scale_up: float = 0.8
    network: float = 0.85
    scale_up_alpha_s: float = 1.0e-6
    network_alpha_s: float = 4.0e-6
    start_s: float = 8.0e-6
    launch_s: float = 2.0e-6

    def reached(self, precision: str) -> float:
        """`most` of a precision, or of the one that is computed by the same units."""
        for name in (precision, SAME_RATE.get(precision, precision)):
            if name in self.most:
                return self.most[name]
        raise ClusterError(
            f"no efficiency is known for {precision}: there is {', '.join(self.most)}"
        )


def find_constants(chip: Chip) -> Constants:
    """Those of a chip; the common ones and its stated efficiency, if it has no file."""
    stated = Constants(
        most=dict.fromkeys(chip.flops, float(chip.efficiency)),
        memory=float(chip.memory_efficiency),
    )
    known = _read(chip.name.casefold())
    most = {**stated.most, **known.get("most", {})}
    return replace(stated, **{**known, "most": most})


@cache
def _read(name: str) -> dict[str, Any]:
    path = DATA / f"{name}.toml"
    if not path.exists():
        return {}
    values = tomllib.loads(path.read_text(encoding="utf-8"))["constants"]
    unknown = values.keys() - {each.name for each in fields(Constants)}
    if unknown:
        raise ClusterError(f"{path.name}: unknown constants {', '.join(sorted(unknown))}")
    return values
