"""How often to save, and what is left: the full exponential form, and what Young and Daly said.

Work of length t, then a checkpoint of length d; failures are exponential with mean M; after each, a
restart of length R (during which it can fail again) and the work since the last checkpoint is done
once more. The expected time to get past one checkpoint is (J. Daly, "A higher order estimate of the
optimum checkpoint interval", FGCS 22, 2006)

    E(t) = M exp(R/M) (exp((t + d) / M) - 1)          efficiency(t) = t / E(t)

which is exact, and never negative: waste saturates at one. The usual first-order form,

    waste = d/t + t/(2M) + R/M        least at Young's  t = sqrt(2 d M)

(J. Young, CACM 17(9), 1974) is good where M is much longer than d and R, and says nonsense (waste
above one) where it is not: at 220,000 GPUs it is not. Daly's better estimate is kept beside it, and
the optimum is found by search.
"""

from math import exp, expm1, sqrt

from baremetal.cluster.errors import ClusterError


def efficiency(work_s: float, checkpoint_s: float, mtbf_s: float, restart_s: float) -> float:
    """Share of the time that is work that counts, 0 to 1.

    Raises:
        ClusterError: a duration is negative, or the work or the time between failures is not above
            zero.
    """
    if min(work_s, mtbf_s) <= 0 or min(checkpoint_s, restart_s) < 0:
        raise ClusterError(
            f"checkpoints: work {work_s} s, checkpoint {checkpoint_s} s, MTBF {mtbf_s} s, restart "
            f"{restart_s} s: work and MTBF must be above 0, the others not below"
        )
    if (work_s + checkpoint_s + restart_s) / mtbf_s > 700:  # exp would overflow: nothing is left
        return 0.0
    return work_s / (mtbf_s * exp(restart_s / mtbf_s) * expm1((work_s + checkpoint_s) / mtbf_s))


def young_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Young's interval of work."""
    return sqrt(2 * checkpoint_s * mtbf_s)


def daly_s(checkpoint_s: float, mtbf_s: float) -> float:
    """Daly's interval of work, of higher order; the MTBF where checkpoints are longer than it."""
    if checkpoint_s >= 2 * mtbf_s:
        return mtbf_s
    x = checkpoint_s / (2 * mtbf_s)
    return young_s(checkpoint_s, mtbf_s) * (1 + sqrt(x) / 3 + x / 9) - checkpoint_s


def best_s(checkpoint_s: float, mtbf_s: float, least_s: float = 0.0) -> float:
    """The best interval of work, by search; not shorter than a step, if one is given.

    The condition for the optimum, (1 - t/M) = exp(-(t + d)/M), has one root between 0 and M;
    bisection finds it. The restart only scales, and does not move it.
    """
    low, high = 0.0, mtbf_s
    for _ in range(200):
        middle = (low + high) / 2
        if 1 - middle / mtbf_s > exp(-(middle + checkpoint_s) / mtbf_s):
            low = middle
        else:
            high = middle
    return max(high, least_s)


def first_order_waste(work_s: float, checkpoint_s: float, mtbf_s: float, restart_s: float) -> float:
    """The usual approximation of what is lost; above one it means nothing."""
    return checkpoint_s / work_s + (work_s / 2 + restart_s) / mtbf_s
