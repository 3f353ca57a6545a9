"""The prediction of one step of one plan, one replica standing for all.

    step = pipeline (simulated: F, I, W of every chunk, messages between stages)
         + gradients' exchange, as far as nothing hides it
         + optimiser
         + straggling

The pipeline is played by the same simulator on the same schedule object that the runtime executes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from baremetal.cluster.cost.collectives import Wires, collective_s
from baremetal.cluster.cost.constants import Constants, find_constants
from baremetal.cluster.cost.layer import VALUE_BYTES, Sizes
from baremetal.cluster.cost.memory import block_parameters, memory_bytes
from baremetal.cluster.cost.rates import Rates
from baremetal.cluster.cost.software import Software, find_software
from baremetal.cluster.cost.spent import Spent
from baremetal.cluster.cost.stage import Setting, StageTimes, chunk_layers, stage_times
from baremetal.cluster.errors import ClusterError
from baremetal.cluster.models import ModelDescription
from baremetal.cluster.plan import Plan
from baremetal.cluster.step.groups import groups
from baremetal.machine.cluster import Cluster
from baremetal.machine.link import Link
from baremetal.schedules import SCHEDULES, Schedule, ScheduleError, make_schedule
from baremetal.schedules.simulate import simulate
from baremetal.schedules.times import Times
from baremetal.schedules.wiring import Wiring, wire

PS_PER_S = 10**12
OPTIMISER_BYTES = 30  # a parameter: read 4 gradient, 4 weight, 8 moments; write 4 + 8 + 2


@dataclass(frozen=True)
class Prediction:
    """What a step is predicted to take.

    Attributes:
        step_time_s: of a whole step.
        breakdown_s: where its seconds go on the slowest rank; adds up to the step.
        memory_bytes: of the fullest rank, by class.
        model_flops, hardware_flops: of a step on one GPU; the latter with what is recomputed.
        peak_flops: dense FLOP/s of a GPU in the precision of the blocks.
        tokens: of a step.
        gpus: that take part.
    """

    step_time_s: float
    breakdown_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    model_flops: float
    hardware_flops: float
    peak_flops: float
    tokens: float
    gpus: int

    @property
    def mfu(self) -> float:
        """Model FLOP/s, as a fraction of the peak."""
        return self.model_flops / self.step_time_s / self.peak_flops

    @property
    def hfu(self) -> float:
        """FLOP/s with what was recomputed, as a fraction of the peak."""
        return self.hardware_flops / self.step_time_s / self.peak_flops

    @property
    def tflops_per_gpu(self) -> float:
        """Model TFLOP/s of each GPU."""
        return self.model_flops / self.step_time_s / 1e12


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
    step_s, breakdown, peaks = step_seconds(setting)
    sizes = setting.sizes
    flops = _model_flops(model, sizes.seq) * plan.samples / plan.gpus
    again = flops * (4 / 3 if plan.recompute == "full" else 1)
    return Prediction(
        step_s, breakdown, memory_bytes(sizes, peaks), flops, again,
        cluster.chip.peak(precision), plan.samples * sizes.seq, plan.gpus,
    )  # fmt: skip


def step_seconds(setting: Setting) -> tuple[float, Spent, list[float]]:
    """Seconds of a step, by cause, and microbatches in flight by rank.

    Raises:
        ClusterError: the plan does not fit the model.
    """
    pipeline_s, spent, peaks = _played(make_pipeline(setting), setting.sizes.plan)
    spent["data"], spent["optimiser"] = _end_of_step(setting)
    total_s = pipeline_s + spent["data"] + spent["optimiser"]
    spent["straggling"] = total_s * setting.sizes.software.straggling
    return total_s + spent["straggling"], spent, peaks


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


def plan_schedule(plan: Plan) -> Schedule:
    """The schedule object of a plan.

    Raises:
        ClusterError: no such schedule for these sizes.
    """
    return _wired(plan.pipeline, plan.pp, plan.microbatches, plan.vp).schedule


@lru_cache(maxsize=32)  # a sweep asks for the same schedule with many different times
def _wired(name: str, ranks: int, microbatches: int, chunks: int) -> Wiring:
    try:
        return wire(make_schedule(name, ranks, microbatches, chunks))
    except ScheduleError as error:
        raise ClusterError(f"plan: {error}") from None


@dataclass(frozen=True)
class Pipeline:
    """One replica's pipeline, ready to be played.

    Attributes:
        schedule: the object that the runtime would execute.
        chunks: seconds of every chunk's actions, by cause.
        times: the same in ps, causes summed.
        link: between ranks; None: there is one rank.
        message_bytes: of one GPU's piece of a microbatch's activations.
    """

    schedule: Schedule
    chunks: Sequence[StageTimes]
    times: Times
    link: Link | None
    message_bytes: int


def make_pipeline(setting: Setting) -> Pipeline:
    """The pipeline of a plan.

    Raises:
        ClusterError: no such schedule for these sizes, or layers that do not divide.
    """
    plan, sizes = setting.sizes.plan, setting.sizes
    chunks = stage_times(setting)
    rows = [(_ps(c.forward), _ps(c.input_gradient), _ps(c.weight_gradient)) for c in chunks]
    times = Times(*(tuple(column) for column in zip(*rows, strict=True)))
    split = plan.tp if plan.sp else 1
    message_bytes = int(sizes.tokens * sizes.model.width * VALUE_BYTES / split)
    return Pipeline(plan_schedule(plan), chunks, times, _stage_link(setting), message_bytes)


def _played(pipeline: Pipeline, plan: Plan) -> tuple[float, Spent, list[float]]:
    """Seconds of the pipeline, by cause on its busiest rank, and microbatches in flight by rank."""
    schedule = pipeline.schedule
    wiring = _wired(plan.pipeline, plan.pp, plan.microbatches, plan.vp)
    timeline = simulate(
        wiring, pipeline.times, link=pipeline.link, size_bytes=pipeline.message_bytes
    )
    ranks = [[s for s, r in enumerate(schedule.rank_of) if r == rank] for rank in range(plan.pp)]
    busiest = max((_spent(pipeline, held) for held in ranks), key=lambda spent: spent.total_s)
    spent = Spent()
    spent.add(busiest, plan.microbatches)
    pipeline_s = timeline.makespan_ps / PS_PER_S
    spent["bubble"] = pipeline_s - spent.total_s
    generator = SCHEDULES[plan.pipeline]
    peaks = [float(peak) for peak in generator.peaks(plan.pp, plan.microbatches, plan.vp)]
    return pipeline_s, spent, peaks


def _spent(pipeline: Pipeline, held: Sequence[int]) -> Spent:
    """Seconds by cause of a microbatch on the stages that a rank holds."""
    spent = Spent()
    for stage in held:
        times = pipeline.chunks[stage]
        for part in (times.forward, times.input_gradient, times.weight_gradient):
            spent.add(part)
    return spent


def _stage_link(setting: Setting) -> Link | None:
    group, wires = setting.groups["pp"], setting.wires
    if group.size == 1:
        return None
    inside = group.domains == 1
    rate = (
        wires.scale_up_Bps * wires.scale_up_share
        if inside
        else (wires.network_Bps * wires.network_share)
    )
    alpha = wires.scale_up_alpha_s if inside else wires.network_alpha_s
    return Link("between stages", int(8 * rate), int((alpha + wires.start_s) * PS_PER_S))


def _ps(seconds: Mapping[str, float]) -> int:
    return round(sum(seconds.values()) * PS_PER_S)


def _end_of_step(setting: Setting) -> tuple[float, float]:
    """Seconds of the gradients' exchange that nothing hides, and of the optimiser."""
    sizes, plan = setting.sizes, setting.sizes.plan
    layers = chunk_layers(sizes.model.layers, plan)[:: plan.pp]
    blocks = [block_parameters(sizes, layer) for part in layers for layer in part]
    dense = sum(b.dense for b in blocks) + sizes.model.vocab_size * sizes.model.width / plan.tp
    experts = sum(block.experts for block in blocks)
    total = 0.0
    for count, group in (
        (dense, setting.groups["dp"]), (experts, setting.groups["expert dp"]),
    ):  # fmt: skip
        total += collective_s(
            setting.wires, "reduce_scatter", count * sizes.software.gradient_bytes, group
        ) + collective_s(setting.wires, "all_gather", count * VALUE_BYTES, group)
    mine = (dense + experts) / (plan.shards if plan.zero else 1)
    optimiser = mine * OPTIMISER_BYTES / setting.rates.memory_Bps
    return total * (1 - sizes.software.hides_dp), optimiser


def _model_flops(model: ModelDescription, seq: int) -> float:
    """FLOP of a sample, forward and backward, attention counted whole: a thin first form."""
    total = 0.0
    for layer in range(model.layers):
        matrices = 3 if model.gated else 2
        attention = (2 * model.heads + 2 * model.kv_heads) * model.head_width * model.width
        if model.has_experts(layer):
            assert model.experts is not None
            hidden = model.experts.active * model.experts.hidden + model.experts.shared_hidden
        else:
            hidden = model.hidden
        total += 6 * seq * (attention + matrices * model.width * hidden)
        total += 12 * seq * seq * model.heads * model.head_width
    return total + 6 * seq * model.width * model.vocab_size
