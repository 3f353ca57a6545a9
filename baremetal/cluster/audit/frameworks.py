"""JAX against another framework, as published on the same GPUs.

The claim names JAX as what is beaten tenfold. The tables hold runs of Llama 3 70B on H100 by JAX
MaxText and by NeMo/Megatron, published together by the same vendor (NVIDIA/dgxc-benchmarking,
v25.02.02): plans and sample counts differ, so tokens/s of a GPU are compared, at the sizes that
both have or the nearest.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from baremetal.cluster.plan import read_plan
from baremetal.cluster.validation.tables import Run
from baremetal.machine.catalogue import find_cluster

JAX = "maxtext"


@dataclass(frozen=True)
class Pair:
    """Two runs of one model in one precision on one kind of GPU.

    Attributes:
        jax, other: the rows.
        jax_rate, other_rate: tokens/s of each GPU.
    """

    jax: Run
    other: Run
    jax_rate: float
    other_rate: float

    @property
    def ratio(self) -> float:
        """How many times faster the other one is."""
        return self.other_rate / self.jax_rate


def pairs(runs: Iterable[Run]) -> list[Pair]:
    """Each JAX row beside the other frameworks' row of the nearest number of GPUs, same release."""
    rows = list(runs)
    jax_rows = [run for run in rows if run.software.startswith(JAX)]
    found = []
    for jax in jax_rows:
        rivals = [run for run in rows if _comparable(jax, run)]
        if not rivals:
            continue
        other = min(rivals, key=lambda run: abs(_gpus(run) - _gpus(jax)))
        found.append(Pair(jax, other, tokens_per_gpu_s(jax), tokens_per_gpu_s(other)))
    return found


def tokens_per_gpu_s(run: Run) -> float:
    """Tokens/s of each GPU in a published run."""
    plan = read_plan(run.plan, _gpus(run))
    return plan.samples * plan.seq / run.step_s / plan.gpus


def _comparable(jax: Run, run: Run) -> bool:
    """Whether it is another framework's row on the same chip, of the same release of the table."""
    return not run.software and _group(run) == _group(jax)


def _group(run: Run) -> tuple[str, ...]:
    release = run.note.partition(" ")[0]
    return run.model, run.precision, run.table, run.cluster.partition(":")[0], release


def _gpus(run: Run) -> int:
    return find_cluster(run.cluster).gpus or 0
