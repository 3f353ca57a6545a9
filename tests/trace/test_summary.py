"""The summary: totals against sums by hand, the roofline against its formula, the exact table."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baremetal.errors import BaremetalError
from baremetal.trace import Trace, shortest_time_s, summarise, summary_table

MS = 10**9
MACHINE = {"peak_flops": 1e11, "bandwidth_Bps": 1e10}

TABLE = """\
Profile
name    calls     time    share     mean    FLOP       B  FLOP/s     B/s  roofline  limit
------  -----  -------  -------  -------  ------  ------  ------  ------  --------  -------
matmul      2  3.00 ms   75.0 %  1.50 ms   200 M  6.00 M  66.7 G  2.00 G    66.7 %  compute
gelu        1  1.00 ms   25.0 %  1.00 ms  1.00 M  8.00 M  1.00 G  8.00 G    80.0 %  memory
------  -----  -------  -------  -------  ------  ------  ------  ------  --------  -------
total       3  4.00 ms  100.0 %        -   201 M  14.0 M  50.2 G  3.50 G    70.0 %  compute"""


@pytest.fixture
def profile():
    trace = Trace()
    trace.add_span("t", "matmul", 0, 1 * MS, "blas", {"flops": 8e7, "bytes": 2e6})
    trace.add_span("t", "matmul", 1 * MS, 2 * MS, "blas", {"flops": 12e7, "bytes": 4e6})
    trace.add_span("t", "gelu", 3 * MS, 1 * MS, "element-wise", {"flops": 1e6, "bytes": 8e6})
    return trace


def test_the_table_letter_by_letter(profile):
    text = summary_table(summarise(profile, **MACHINE), title="Profile")
    assert text == TABLE


def test_rows_hold_sums_rates_and_limits(profile):
    result = summarise(profile, **MACHINE)
    matmul, gelu = result["rows"]
    assert (matmul["name"], matmul["calls"]) == ("matmul", 2)
    assert matmul["total_s"] == matmul["self_s"] == pytest.approx(3e-3)
    assert matmul["share"] == pytest.approx(0.75)
    assert matmul["mean_s"] == pytest.approx(1.5e-3)
    assert matmul["flops_per_s"] == pytest.approx(20e7 / 3e-3)
    assert matmul["bytes_per_s"] == pytest.approx(6e6 / 3e-3)
    # 0.8 ms and 1.2 ms of arithmetic at least, in 3 ms; 0.8 ms of traffic at least, in 1 ms.
    assert (matmul["roofline"], matmul["limit"]) == (pytest.approx(2 / 3), "compute")
    assert (gelu["roofline"], gelu["limit"]) == (pytest.approx(0.8), "memory")
    total = result["total"]
    assert total["calls"] == 3
    assert total["total_s"] == pytest.approx(4e-3)
    assert total["flops"] == 20.1e7
    assert total["roofline"] == pytest.approx(2.8 / 4)
    assert json.loads(json.dumps(result)) == result


def test_columns_without_anything_in_them_are_left_out(profile):
    text = summary_table(summarise(profile))
    assert "FLOP/s" in text
    assert "roofline" not in text
    assert "self" not in text
    bare = Trace()
    bare.add_span("t", "step", 0, 4 * MS)
    bare.add_span("t", "load", 1 * MS, 1 * MS)
    assert summary_table(summarise(bare)) == "\n".join(
        [
            "name   calls     time     self    share     mean",
            "-----  -----  -------  -------  -------  -------",
            "step       1  4.00 ms  3.00 ms   75.0 %  4.00 ms",
            "load       1  1.00 ms  1.00 ms   25.0 %  1.00 ms",
            "-----  -----  -------  -------  -------  -------",
            "total      2  4.00 ms  4.00 ms  100.0 %        -",
        ]
    )


def test_calls_of_different_limits_are_judged_call_by_call():
    trace = Trace()
    # One call limited by arithmetic, one by memory: summing first would say 1 ms of 2 ms, not 2.
    trace.add_span("t", "mix", 0, 1 * MS, "", {"flops": 1e8, "bytes": 0})
    trace.add_span("t", "mix", 1 * MS, 1 * MS, "", {"flops": 0, "bytes": 1e7})
    assert summarise(trace, **MACHINE)["rows"][0]["roofline"] == pytest.approx(1.0)


def test_work_is_counted_once_where_spans_nest():
    trace = Trace()
    trace.add_span("t", "layer", 0, 4 * MS, "", {"flops": 100})
    trace.add_span("t", "matmul", 0, 2 * MS, "", {"flops": 60})
    trace.add_span("t", "layer", 1 * MS, 1 * MS, "", {"flops": 10})  # recursion
    result = summarise(trace)
    assert {row["name"]: row["flops"] for row in result["rows"]} == {"layer": 100, "matmul": 60}
    assert result["total"]["flops"] == 100


def test_spans_that_say_no_work_do_not_thin_out_the_rate():
    trace = Trace()
    trace.add_span("t", "k", 0, 9 * MS)
    trace.add_span("t", "k", 9 * MS, 1 * MS, "", {"flops": 1e6})
    assert summarise(trace)["rows"][0]["flops_per_s"] == pytest.approx(1e9)


def test_category_top_and_nothing(profile):
    assert [row["name"] for row in summarise(profile, category="blas")["rows"]] == ["matmul"]
    lines = summary_table(summarise(profile), top=1).splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith("total of 2")
    empty = summary_table(summarise(Trace()))
    assert empty.splitlines()[-1].startswith("total      0")


def test_limits_must_be_above_zero(profile):
    with pytest.raises(BaremetalError, match="peak_flops is 0"):
        summarise(profile, peak_flops=0)
    with pytest.raises(BaremetalError, match="bandwidth_Bps is -1"):
        summarise(profile, bandwidth_Bps=-1)


works = st.integers(0, 99)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 9), works, works),
        min_size=1,
        max_size=20,
    )
)
def test_totals_of_a_row_of_spans_are_plain_sums(calls):
    trace, start_ps = Trace(), 0
    for name, duration_ps, flops, size in calls:
        trace.add_span("t", name, start_ps, duration_ps, "", {"flops": flops, "bytes": size})
        start_ps += duration_ps
    result = summarise(trace, peak_flops=1e12, bandwidth_Bps=2e12)
    for row in result["rows"]:
        mine = [call for call in calls if call[0] == row["name"]]
        time_s = sum(call[1] for call in mine) * 1e-12
        assert row["calls"] == len(mine)
        assert row["total_s"] == pytest.approx(time_s)
        assert row["flops"] == sum(call[2] for call in mine)
        assert row["bytes"] == sum(call[3] for call in mine)
        least_s = sum(shortest_time_s(call[2], call[3], 1e12, 2e12) for call in mine)
        assert row["roofline"] == pytest.approx(least_s / time_s)
    assert sum(row["share"] for row in result["rows"]) == pytest.approx(1.0)
