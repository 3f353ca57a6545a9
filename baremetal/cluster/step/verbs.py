"""`baremetal simulate`: predict one step of a model on a cluster under a plan.

    baremetal simulate --model llama3-405b --cluster h100:8192 --precision bf16 \\
        --plan tp=8,pp=16,vp=8,mbs=1,gbs=2048

The JSON object is what there is; the table is made from it.
"""

import json
from dataclasses import dataclass
from typing import Any

from baremetal.cluster.cost.software import find_software
from baremetal.cluster.models import find_model
from baremetal.cluster.models.flops import CAUSAL, CONVENTIONS
from baremetal.cluster.plan import Plan, read_plan
from baremetal.cluster.step.replica import Prediction, predict
from baremetal.machine.catalogue import find_cluster
from baremetal.machine.cluster import Cluster
from baremetal.trace import Column, format_bytes, format_seconds, table


@dataclass(frozen=True)
class SimulateOptions:
    """Predict a training step: its time, its memory, and where each second goes."""

    model: str = "llama3-405b"
    """A model by name ('baremetal model list'), or a TOML file."""
    cluster: str = "gb300-nvl72:256"
    """A kind of cluster and how many GPUs are used ('baremetal machine list --kind cluster')."""
    plan: str = ""
    """key=value joined by commas: tp cp pp vp ep etp dp zero fsdp mbs gbs seq sp schedule recompute
    layers."""
    precision: str = "bf16"
    """Of the blocks' matrix products: fp16, bf16, fp8, mxfp8, nvfp4."""
    software: str = ""
    """Generation of training software; empty: what runs on such clusters."""
    json: bool = False
    """Print one JSON object."""


def run_simulate(given: SimulateOptions) -> None:
    """Predict, and print.

    Raises:
        BaremetalError: something unknown, or a plan that does not fit.
    """
    cluster = find_cluster(given.cluster)
    model = find_model(given.model)
    plan = read_plan(given.plan, cluster.gpus)
    software = find_software(given.software or cluster.software)
    found = predict(model, cluster, plan, given.precision, software)
    document = as_document(found, cluster, plan, given)
    print(json.dumps(document, indent=2) if given.json else as_text(document))


def as_document(
    found: Prediction, cluster: Cluster, plan: Plan, given: SimulateOptions
) -> dict[str, Any]:
    """Everything that was predicted, as plain values."""
    memory = {name: round(size) for name, size in found.memory_bytes.items()}
    return {
        "model": given.model,
        "cluster": given.cluster,
        "plan": {**vars(plan), "schedule": plan.pipeline, "microbatches": plan.microbatches},
        "precision": given.precision,
        "step_time_s": found.step_time_s,
        "tokens_per_s": found.tokens / found.step_time_s,
        "tokens_per_s_per_gpu": found.tokens / found.step_time_s / found.gpus,
        "tflops_per_gpu": found.tflops_per_gpu(),
        "peak_tflops": found.peak_flops / 1e12,
        "mfu": found.mfu(),
        "hfu": found.hfu,
        "flops_convention": CAUSAL.name,
        "mfu_by_convention": {name: found.mfu(each) for name, each in CONVENTIONS.items()},
        "memory_bytes": sum(memory.values()),
        "usable_memory_bytes": cluster.chip.usable_memory_bytes,
        "memory_by_class_bytes": memory,
        "breakdown_s": dict(found.breakdown_s),
    }


def as_text(document: dict[str, Any]) -> str:
    """The same as people read it."""
    step_s = document["step_time_s"]
    rows = [
        [cause, format_seconds(seconds), f"{seconds / step_s:.1%}"]
        for cause, seconds in sorted(document["breakdown_s"].items(), key=lambda item: -item[1])
        if seconds
    ]
    columns = [Column("where the step goes", align="<"), Column("time"), Column("share")]
    memory = ", ".join(
        f"{name} {format_bytes(size)}" for name, size in document["memory_by_class_bytes"].items()
    )
    return "\n".join(
        [
            f"{document['model']} on {document['cluster']} in {document['precision']}",
            f"step {format_seconds(step_s)}, {document['tokens_per_s_per_gpu']:,.0f} tokens/s a "
            f"GPU, {document['tflops_per_gpu']:,.0f} TFLOP/s a GPU, MFU {document['mfu']:.1%} and "
            f"HFU {document['hfu']:.1%} of {document['peak_tflops']:,.0f} TFLOP/s",
            f"memory {format_bytes(document['memory_bytes'])} of "
            f"{format_bytes(document['usable_memory_bytes'])}: {memory}",
            "",
            table(rows, columns),
        ]
    )
