"""Which ranks talk to which, and how many of a group sit in one NVLink domain.

Ranks are numbered with tensor parallelism innermost, as Megatron does by default:

    rank = tp + TP (cp + CP (dp + DP pp))           ep runs along tp, cp and dp

so neighbours of a group of stride s and size n share a domain of d GPUs in runs of d / s.
"""

from baremetal.cluster.cost.collectives import Group
from baremetal.cluster.plan import Plan
from baremetal.machine.cluster import Cluster


def domain_gpus(plan: Plan, cluster: Cluster) -> int:
    """GPUs of a domain that the plan uses: as many as make whole groups of tp x cp.

    A rack of 72 with tp = 8 is used whole; with a replica of 64 eight are left over, unless the
    groups of several replicas share it.
    """
    one = plan.tp * plan.cp
    if cluster.domain <= one:
        return cluster.domain
    return cluster.domain // one * one


def groups(plan: Plan, cluster: Cluster) -> dict[str, Group]:
    """The groups of each kind of exchange."""
    whole = domain_gpus(plan, cluster)
    strides = {
        "tp": (plan.tp, 1),
        "cp": (plan.cp, plan.tp),
        "ep": (plan.ep * plan.etp, 1),
        "dp": (plan.dp * plan.cp, plan.tp),
        "expert dp": (plan.replicas_of_experts, plan.ep * plan.etp),
        "pp": (plan.pp, plan.tp * plan.cp * plan.dp),
    }
    return {
        name: Group(size, max(1, min(size, whole // stride)))
        for name, (size, stride) in strides.items()
    }
