"""How a run is laid over the GPUs: degrees of parallelism, batch, recomputation, precision."""

from baremetal.cluster.plan.plan import Plan
from baremetal.cluster.plan.text import read_plan

__all__ = ["Plan", "read_plan"]
