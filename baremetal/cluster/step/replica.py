"""The prediction of one step of one plan, one replica standing for all.

    step = pipeline (simulated: F, I, W of every chunk, messages between stages)
         + gradients' exchange, as far as nothing hides it
         + optimiser
         + straggling

The pipeline is played by the same simulator on the same schedule object that the runtime executes
(`pipeline.py`); exchange and optimiser are those of the rank that has most to exchange.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from baremetal.cluster.cost.collectives import Wires, collective_s
from baremetal.cluster.cost.constants import Constants, find_constants
from baremetal.cluster.cost.held import Held, Share, share_of
from baremetal.cluster.cost.layer import VALUE_BYTES, Sizes
from baremetal.cluster.cost.memory import memory_bytes
from baremetal.cluster.cost.rates import Rates
from baremetal.cluster.cost.software import Software, find_software
from baremetal.cluster.cost.spent import Spent
from baremetal.cluster.cost.stage import Setting
from baremetal.cluster.models import ModelDescription, sample_flops
from baremetal.cluster.models.flops import CAUSAL, CONVENTIONS, Convention, hardware_flops
from baremetal.cluster.plan import Plan
from baremetal.cluster.step.groups import groups
from baremetal.cluster.step.pipeline import Pipeline, make_pipeline
from baremetal.machine.cluster import Cluster

UPDATE_BYTES = 30  # a parameter: read 4 gradient, 4 weight, 8 moments; write 4 + 8 + 2


@dataclass(frozen=True)
class Prediction:
    """What a step is predicted to take.

    Attributes:
        step_time_s: of a whole step.
        breakdown_s: where its seconds go on the busiest rank; adds up to the step.
        memory_bytes: of the fullest rank, by class.
        model_flops: of a step on one GPU, by the name of the convention (`models/flops.py`).
        hardware_flops: with what is recomputed, attention as far as the mask leaves it.
        peak_flops: dense FLOP/s of a GPU in the precision of the blocks.
        tokens: of a step.
        gpus: that take part.
    """

    step_time_s: float
    breakdown_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    model_flops: Mapping[str, float]
    hardware_flops: float
    peak_flops: float
    tokens: float
    gpus: int

    def mfu(self, convention: Convention = CAUSAL) -> float:
        """Model FLOP/s, as a fraction of the peak."""
        return self.model_flops[convention.name] / self.step_time_s / self.peak_flops

    @property
    def hfu(self) -> float:
        """FLOP/s with what was recomputed, as a fraction of the peak."""
        return self.hardware_flops / self.step_time_s / self.peak_flops

    def tflops_per_gpu(self, convention: Convention = CAUSAL) -> float:
        """Model TFLOP/s of each GPU."""
        return self.model_flops[convention.name] / self.step_time_s / 1e12


def predict(
    model: ModelDescription,
    cluster: Cluster,
    plan: Plan,
    precision: str = "bf16",
    software: Software | None = None,
) -> Prediction:
    """Predict a step.

    Raises:
        ClusterError: the plan does not fit the model or the cluster.
    """
    setting = make_setting(model, cluster, plan, precision, software)
    sizes, pipeline = setting.sizes, make_pipeline(setting)
    spent = step_spent(setting, pipeline)
    share = plan.samples / plan.gpus  # samples of a step, for each GPU
    again = plan.recompute
    if again == "selective" and not sizes.software.recomputes_core:
        again = "none"  # fused attention keeps no scores: there is nothing to compute again
    return Prediction(
        step_time_s=spent.total_s,
        breakdown_s=spent,
        memory_bytes=memory_bytes(sizes, pipeline.held, pipeline.peaks),
        model_flops={
            name: share * sample_flops(model, sizes.seq, convention)
            for name, convention in CONVENTIONS.items()
        },
        hardware_flops=share * hardware_flops(model, sizes.seq, again),
        peak_flops=cluster.chip.peak(precision),
        tokens=plan.samples * sizes.seq,
        gpus=plan.gpus,
    )


def make_setting(
    model: ModelDescription,
    cluster: Cluster,
    plan: Plan,
    precision: str = "bf16",
    software: Software | None = None,
    constants: Constants | None = None,
) -> Setting:
    """Everything that times depend on; software and constants as usual on that cluster."""
    software = software or find_software(cluster.software)
    constants = constants or find_constants(cluster.chip)
    sizes = Sizes(model, plan, software, precision, plan.seq or model.context)
    rates = Rates(cluster.chip, constants, software.host_overhead_s)
    return Setting(sizes, rates, Wires.of(cluster, constants), groups(plan, cluster))


def step_spent(setting: Setting, pipeline: Pipeline) -> Spent:
    """Seconds of a step, by cause."""
    spent = pipeline.play()
    spent["data"], spent["optimiser"] = _end_of_step(setting, pipeline.held)
    spent["straggling"] = spent.total_s * setting.sizes.software.straggling
    return spent


def _end_of_step(setting: Setting, held: Sequence[Held]) -> tuple[float, float]:
    """Seconds of the gradients' exchange that nothing hides, and of the optimiser."""
    sizes, plan = setting.sizes, setting.sizes.plan
    share = max((share_of(sizes, each) for each in held), key=lambda each: each.total)
    mine = share.total / (plan.shards if plan.zero else 1)
    optimiser_s = mine * UPDATE_BYTES / setting.rates.memory_Bps
    return _exchange_s(setting, share) * (1 - sizes.software.hides_dp), optimiser_s


def _exchange_s(setting: Setting, share: Share) -> float:
    """Of gradients summed where they are kept, and weights back, one group after the other."""
    gradient_bytes, wires = setting.sizes.software.gradient_bytes, setting.wires
    total_s = 0.0
    for count, name in ((share.dense, "dp"), (share.experts, "expert dp")):
        group = setting.groups[name]
        total_s += collective_s(wires, "reduce_scatter", count * gradient_bytes, group)
        total_s += collective_s(wires, "all_gather", count * VALUE_BYTES, group)
    return total_s
