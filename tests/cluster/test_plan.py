"""Plans: read from a line, checked, and what follows from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.cluster.cost.held import chunk_layers
from baremetal.cluster.errors import ClusterError
from baremetal.cluster.plan import Plan, read_plan


def test_a_line_is_a_plan_and_what_is_left_of_the_gpus_is_data_parallel():
    plan = read_plan("tp=8, pp=16,vp=2,mbs=2,gbs=2048,recompute=selective,sp=0", gpus=8192)
    assert plan == Plan(tp=8, pp=16, dp=64, vp=2, mbs=2, gbs=2048, recompute="selective", sp=False)
    assert (plan.gpus, plan.microbatches, plan.samples) == (8192, 16, 2048)
    assert plan.pipeline == "interleaved"


@given(
    tp=st.integers(1, 8), cp=st.integers(1, 4), pp=st.integers(1, 16), dp=st.integers(1, 32),
    m=st.integers(1, 64),
)  # fmt: skip
def test_the_batch_law(tp, cp, pp, dp, m):
    """With one sample a microbatch, m / pp = gbs x tp x cp / GPUs, whatever pp."""
    plan = Plan(tp=tp, cp=cp, pp=pp, dp=dp, gbs=m * dp)
    assert plan.microbatches * plan.gpus == pp * plan.gbs * tp * cp


@pytest.mark.parametrize(
    ("text", "gpus", "says"),
    [
        ("tp=8,pq=2", None, "'pq=2': "),
        ("tp=8,tp=4", None, "tp is given twice"),
        ("tp=eight", None, "tp=eight: expected a whole number"),
        ("tp", None, "expected key=value"),
        ("sp=2", None, "sp=2: expected 0 or 1"),
        ("tp=0", None, "tp=0; expected a whole number of at least 1"),
        ("zero=4", None, "zero=4; expected 0, 1, 2 or 3"),
        ("recompute=some", None, "expected none, selective, full"),
        ("tp=3", 8, "does not divide 8"),
        ("tp=2,dp=2", 8, "4 GPUs, but the cluster has 8"),
        ("dp=4,mbs=2,gbs=12", None, "no multiple of dp x mbs = 4 x 2"),
        ("ep=3,dp=4", None, "does not divide tp x cp x dp = 4"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text, gpus, says):
    with pytest.raises(ClusterError, match="plan: ") as refused:
        read_plan(text, gpus)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_layers_are_even_but_for_the_ends_that_hold_embedding_and_head():
    assert [len(part) for part in chunk_layers(8, Plan(pp=4))] == [2, 2, 2, 2]
    # 126 + 2 = 8 x 8 x 2: Llama 3 405B counts embedding and head as a layer each.
    parts = [len(part) for part in chunk_layers(126, Plan(pp=8, vp=8))]
    assert parts == [1, *[2] * 62, 1]
    parts = [len(part) for part in chunk_layers(126, Plan(pp=16, vp=8))]
    assert parts == [0, *[1] * 126, 0]
    given_by_stage = chunk_layers(6, Plan(pp=2, vp=2, layers=(2, 4)))
    assert [len(part) for part in given_by_stage] == [1, 2, 1, 2]
    with pytest.raises(ClusterError, match=r"4 layers in pp x vp = 4 x 2 chunks"):
        chunk_layers(4, Plan(pp=4, vp=2))
    with pytest.raises(ClusterError, match=r"layers=3:4 are 7 in 2 chunks; expected 8"):
        chunk_layers(8, Plan(pp=2, layers=(3, 4)))


@given(st.integers(1, 200), st.integers(1, 16), st.integers(1, 8))
def test_every_layer_is_in_one_chunk(layers, pp, vp):
    plan = Plan(pp=pp, vp=vp)
    if layers < pp * vp - 2:
        return
    parts = chunk_layers(layers, plan)
    assert [layer for part in parts for layer in part] == list(range(layers))
    assert len(parts) == pp * vp
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1
