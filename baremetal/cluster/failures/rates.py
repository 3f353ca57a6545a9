"""How often something breaks: rates by part, from published interruptions.

Failures of many independent parts are a Poisson process: rates add up, so the mean time between
failures falls with the number of GPUs,

    M(N) = 1 / (N x rate of a GPU and its share of everything else)

The measured one: 419 unexpected interruptions in 54 days on 16,384 H100 (The Llama 3 Herd of
Models, arXiv 2407.21783, section 3.3.4 and table 5), one in 3.1 hours, or one in 50,700 GPU-hours.
Another fleet had one in 1.8 hours at that size, by the same law from 1,024 GPUs (A. Kokolis et al.,
arXiv 2410.21680). At 220,000 GPUs that is one every 8 to 14 minutes.

Trap: table 5 prints 30.1 % beside 148 of 419, which are 35.3 %; counts are used here.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from baremetal.cluster.errors import ClusterError

DATA = Path(__file__).parent / "data"
HOUR_S = 3600.0
LLAMA3_GPUS, LLAMA3_S = 16_384, 54 * 24 * HOUR_S


@dataclass(frozen=True)
class Fleet:
    """How often what breaks, per GPU.

    Attributes:
        name: ``"llama3"``.
        rates_per_gpu_s: failures per GPU and second, by part.
        source: where from.
    """

    name: str
    rates_per_gpu_s: Mapping[str, float]
    source: str

    @property
    def rate_per_gpu_s(self) -> float:
        """Of all parts."""
        return sum(self.rates_per_gpu_s.values())

    def mtbf_s(self, gpus: int) -> float:
        """Mean seconds between failures among so many GPUs."""
        return 1 / (gpus * self.rate_per_gpu_s)


@cache
def _llama3() -> Fleet:
    with (DATA / "llama3_interruptions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rates: dict[str, float] = {}
    for row in rows:
        per_gpu_s = int(row["count"]) / (LLAMA3_GPUS * LLAMA3_S)
        rates[row["part"]] = rates.get(row["part"], 0.0) + per_gpu_s
    return Fleet("llama3", rates, rows[0]["source"])


@cache
def _kokolis() -> Fleet:
    # 1.8 h at 16,384 GPUs, all parts together.
    rate = 1 / (1.8 * HOUR_S * 16_384)
    return Fleet("kokolis", {"all": rate}, "A. Kokolis et al., arXiv 2410.21680 (second-hand)")


def find_fleet(name: str) -> Fleet:
    """A fleet's rates by name.

    Raises:
        ClusterError: unknown.
    """
    fleets = {"llama3": _llama3, "kokolis": _kokolis}
    if name not in fleets:
        raise ClusterError(f"unknown fleet '{name}': there are {', '.join(fleets)}")
    return fleets[name]()
