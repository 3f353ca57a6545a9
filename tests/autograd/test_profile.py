"""The profile: every launch once, with the cost that its kernel declares."""

import json

import numpy as np
import pytest

from baremetal.autograd import CPU, Device, Tensor, ops, profile
from baremetal.errors import BaremetalError
from baremetal.kernels import matmul as kernels
from baremetal.trace import read_perfetto

LIMITS = {"peak_flops": 1e12, "bandwidth_Bps": 1e11}


def run():
    x = Tensor(np.ones((8, 16), np.float32), requires_grad=True)
    loss = (x @ np.ones((16, 4), np.float32)).relu().sum()
    loss.backward()
    return loss


def test_calls_flops_and_bytes_are_those_of_the_costs():
    with profile(**LIMITS) as collected:
        run()
    summary = collected.summary()
    rows = {row["name"]: row for row in summary["rows"]}
    assert {name: row["calls"] for name, row in rows.items()} == {
        "matmul": 2, "relu": 1, "relu_backward": 1, "sum": 1, "copy": 1, "fill": 1,
    }  # fmt: skip
    a, b, c = (np.ones(s, np.float32) for s in ((8, 16), (16, 4), (8, 4)))
    costs = [kernels.matmul.cost(a, b, c), kernels.matmul.cost(c, b.T, a)]
    assert rows["matmul"]["flops"] == sum(cost.flops for cost in costs)
    assert rows["matmul"]["bytes"] == sum(cost.size_bytes for cost in costs)
    shortest_s = sum(cost.roofline_s(1e12, 1e11) for cost in costs)
    assert rows["matmul"]["roofline"] == pytest.approx(shortest_s / rows["matmul"]["total_s"])
    assert summary["total"]["calls"] == 7
    assert 0 < summary["total"]["total_s"] <= summary["wall_s"]
    json.dumps(summary)


def test_profiling_changes_no_result():
    plain = run().item()
    with profile(**LIMITS):
        profiled = run().item()
    assert plain == profiled


def test_only_the_named_device_is_listened_to_and_only_inside():
    other = Device("other")
    with profile(other, **LIMITS) as collected:
        run()
    run()
    assert collected.trace.spans == []
    with profile(**LIMITS) as collected:
        pass
    run()
    assert collected.trace.spans == []


def test_the_listener_is_gone_after_an_error():
    with pytest.raises(KeyError), profile(**LIMITS):
        raise KeyError
    with profile(**LIMITS) as collected:
        run()
    assert len(collected.trace.spans) == 7


def test_two_profiles_of_one_device_are_refused():
    message = "already being listened"
    with profile(**LIMITS), pytest.raises(BaremetalError, match=message), profile(**LIMITS):
        pass
    assert CPU._listener is None


def test_the_table_names_every_kernel_and_the_time_outside():
    with profile(**LIMITS) as collected:
        run()
    lines = str(collected).splitlines()
    for name in ("matmul", "relu_backward", "total"):
        assert any(line.startswith(name) for line in lines)
    assert "outside launches" in lines[-2]
    assert lines[-1] == "limits: 1.00 TFLOP/s, 100 GB/s"
    assert len(collected.table(top=2).splitlines()) == len(lines) - 4
    assert repr(collected).startswith("<profile of 7 launches")


def test_the_trace_can_be_read_back(tmp_path):
    with profile(**LIMITS) as collected:
        x = Tensor(np.ones((2, 3), np.float32))
        ops.layer_norm(x, np.ones(3, np.float32))  # an absent bias among the arguments
    path = collected.save(tmp_path / "trace.json")
    spans = read_perfetto(path).spans
    assert [span.name for span in spans] == ["layer_norm"]
    assert spans[0].category == "norm"
    assert spans[0].arguments["eps"] == 1e-5
    assert spans[0].arguments["shapes"][0] == [2, 3]


def test_limits_are_measured_when_none_are_given(monkeypatch):
    from baremetal.kernels import limits

    measured = limits.Limits(peak_flops=2e9, bandwidth_Bps=3e9)
    monkeypatch.setattr(limits, "measure_limits", lambda: measured)
    with profile(peak_flops=1e9) as collected:
        run()
    assert collected.limits == (1e9, 3e9)
