"""How far the best published runs are from what their chips can do.

MFU is the share of the peak that model FLOP take, so 1 / MFU is the headroom: nothing that does the
same arithmetic on the same chip in the same precision can be faster by more. It is an upper bound
that nobody will reach, and already it settles most of the question.

Rows are grouped by chip, precision and whether the model is dense or a mixture of experts; the best
row of each group is today's state of the art, as far as it was published.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from baremetal.cluster.models import ModelDescription, find_model
from baremetal.cluster.models.flops import sample_flops
from baremetal.cluster.plan import read_plan
from baremetal.cluster.validation.tables import Run
from baremetal.machine.catalogue import find_cluster


@dataclass(frozen=True)
class Best:
    """The best published row of a group.

    Attributes:
        chip, precision, sparse: of the group; sparse: mixture of experts.
        run: the row.
        tflops_per_gpu: model TFLOP/s, attention counted as far as the mask leaves it.
        mfu: of the chip's dense peak in this precision.
        rows: how many the group has.
    """

    chip: str
    precision: str
    sparse: bool
    run: Run
    tflops_per_gpu: float
    mfu: float
    rows: int

    @property
    def headroom(self) -> float:
        """Times faster at most, in the same precision."""
        return 1 / self.mfu


def best_rows(runs: Iterable[Run]) -> list[Best]:
    """The best row of every chip, precision and kind of model, the newest chips first."""
    groups: dict[tuple[str, str, bool], list[tuple[float, float, Run]]] = {}
    for run in runs:
        cluster, model = find_cluster(run.cluster), find_model(run.model)
        tflops = model_tflops(run, model)
        mfu = tflops * 1e12 / cluster.chip.peak(run.precision)
        key = cluster.chip.name, run.precision, model.experts is not None
        groups.setdefault(key, []).append((mfu, tflops, run))
    found = []
    for (chip, precision, sparse), rows in groups.items():
        mfu, tflops, run = max(rows, key=lambda row: row[0])
        found.append(Best(chip, precision, sparse, run, tflops, mfu, len(rows)))
    return sorted(found, key=lambda best: (best.sparse, best.chip, best.precision))


def model_tflops(run: Run, model: ModelDescription) -> float:
    """Model TFLOP/s of each GPU in a published run."""
    plan = read_plan(run.plan, find_cluster(run.cluster).gpus)
    flops = sample_flops(model, plan.seq) * plan.samples / plan.gpus
    return flops / run.step_s / 1e12
