"""A plan: how one training step is laid over the GPUs, as data.

Five degrees multiply to the number of GPUs, one shares its GPUs with another:

    gpus = tp x cp x pp x dp         experts: ep divides tp x cp x dp

    tp  tensor parallel: every matrix is split       cp  context: every sample is split
    pp  pipeline: layers are split, in stages         dp  data: the batch is split
    ep  experts are split, over ranks that hold the same layers

A step takes `gbs` samples of `seq` tokens; each of the dp replicas works through its share in
microbatches of `mbs` samples. So

    microbatches m = gbs / (dp x mbs)

and how many of them there are decides how well a pipeline is filled: with one sample each,
m / pp = gbs x tp x cp / gpus, whatever pp (the *batch law*).

D. Narayanan et al., arXiv 2104.04473 (tp, pp, dp); V. Korthikanti et al., arXiv 2205.05198 (sp,
recomputation); S. Rajbhandari et al., "ZeRO", arXiv 1910.02054.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from baremetal.cluster.errors import ClusterError

Recompute = Literal["none", "selective", "full"]
RECOMPUTE = get_args(Recompute)


@dataclass(frozen=True)
class Plan:
    """One way to train one model on so many GPUs.

    Attributes:
        tp, cp, pp, ep, dp: degrees of parallelism.
        vp: chunks of layers that each stage holds (virtual stages).
        etp: over how many of the tp ranks one expert's matrices are split.
        zero: what data parallel ranks do not all keep: 0 nothing, 1 optimiser states, 2 gradients
            too, 3 weights too (FSDP).
        fsdp: ranks that such a sharded copy is spread over; 0: all dp x cp.
        mbs: samples in a microbatch.
        gbs: samples in a step; 0: one microbatch for each stage, of every replica.
        seq: tokens in a sample; 0: as the model says.
        sp: sequence parallel: what tensor parallelism leaves whole is split along the tokens.
        schedule: of the pipeline; empty: interleaved if vp > 1, else 1f1b.
        recompute: of activations in the backward pass.
        layers: of each stage (pp) or each chunk (pp x vp) in the order of the model; empty: even.

    Raises:
        ClusterError: a number is out of range, or does not divide.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    vp: int = 1
    etp: int = 1
    zero: int = 1
    fsdp: int = 0
    mbs: int = 1
    gbs: int = 0
    seq: int = 0
    sp: bool = True
    schedule: str = ""
    recompute: Recompute = "none"
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tp", "cp", "pp", "ep", "dp", "vp", "etp", "mbs"):
            self._check(name, 1)
        for name in ("gbs", "seq", "fsdp"):
            self._check(name, 0)
        if self.zero not in (0, 1, 2, 3):
            raise ClusterError(f"plan: zero={self.zero}; expected 0, 1, 2 or 3")
        if self.recompute not in RECOMPUTE:
            raise ClusterError(f"plan: recompute={self.recompute}; expected {', '.join(RECOMPUTE)}")
        if self.gbs % (self.dp * self.mbs):
            raise ClusterError(
                f"plan: gbs={self.gbs} is no multiple of dp x mbs = {self.dp} x {self.mbs}: every "
                "replica needs the same number of whole microbatches"
            )
        if (self.tp * self.cp * self.dp) % (self.ep * self.etp):
            raise ClusterError(
                f"plan: ep x etp = {self.ep} x {self.etp} does not divide tp x cp x dp = "
                f"{self.tp * self.cp * self.dp}, the ranks that hold the same layers"
            )

    def _check(self, name: str, at_least: int) -> None:
        value = getattr(self, name)
        if type(value) is not int or value < at_least:
            raise ClusterError(
                f"plan: {name}={value!r}; expected a whole number of at least {at_least}"
            )

    @property
    def gpus(self) -> int:
        """GPUs in use."""
        return self.tp * self.cp * self.pp * self.dp

    @property
    def microbatches(self) -> int:
        """Of each replica in a step."""
        return self.gbs // (self.dp * self.mbs) if self.gbs else self.pp

    @property
    def samples(self) -> int:
        """In a step, of all replicas."""
        return self.microbatches * self.dp * self.mbs

    @property
    def replicas_of_experts(self) -> int:
        """Ranks that hold the same experts' weights."""
        return self.tp * self.cp * self.dp // (self.ep * self.etp)

    @property
    def shards(self) -> int:
        """Ranks over which ZeRO spreads what it spreads."""
        return self.fsdp or self.dp * self.cp

    @property
    def pipeline(self) -> str:
        """The schedule's name."""
        return self.schedule or ("interleaved" if self.vp > 1 else "1f1b")
