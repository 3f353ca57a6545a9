"""`baremetal bench link`: what it measures is there and in the right proportion to itself."""

import json

import pytest

from baremetal.bench.link import measure
from baremetal.bench.link.measure import contenders, measure_link
from baremetal.bench.link.report import link_table
from baremetal.cli import main
from baremetal.comm import shared_memory
from baremetal.comm.shared_memory import SharedMemory

RESULT = {
    "small_bytes": 4096,
    "large_bytes": 2**26,
    "rounds": 3,
    "memcpy_Bps": 10e9,
    "contenders": {
        "shared memory": {"latency_s": 9e-6, "rate_Bps": 7e9, "share_of_memcpy": 0.7},
        "pipe": {"latency_s": 12e-6, "rate_Bps": 1e9, "share_of_memcpy": 0.1},
    },
    "latency_target_s": 1e-5,
    "share_target": 0.6,
    "machine": {"processor": "P", "cores": 2, "python": "3.11", "blas": {}},
}


@pytest.fixture
def without_mpi(monkeypatch):
    monkeypatch.setattr(measure, "mpi_launcher", lambda: None)
    monkeypatch.setattr(measure, "WARM_UP", (1, 1))


def test_every_contender_is_measured(monkeypatch):
    monkeypatch.setattr(measure, "WARM_UP", (1, 1))
    told = []
    result = measure_link(2, 3, 2, 2**20, told.append)
    assert tuple(result["contenders"]) == contenders()
    for row in result["contenders"].values():
        assert row["latency_s"] > 0
        assert row["rate_Bps"] > 0
        assert row["share_of_memcpy"] > 0
    assert told[0] == "round 1 of 2: shared memory"
    assert told[len(contenders())] == "round 2 of 2: in place"  # another one begins
    assert json.loads(json.dumps(result)) == result


def test_the_ratio_is_the_median_of_each_round_s():
    assert measure._median_ratio([1, 8, 3], [2, 4, 4]) == 0.75  # of 0.5, 2, 0.75


def test_the_command(capsys, without_mpi):
    options = ["--rounds", "1", "--small", "2", "--large", "1", "--mebibytes", "1"]
    assert main(["bench", "link", *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["contenders"]) == {"shared memory", "in place", "pipe"}


def test_the_table_says_what_was_reached():
    text = link_table(RESULT)
    assert "at most 10.0 us: reached" in text
    assert "at least 60.0 % of memcpy: reached" in text
    slow = {"latency_s": 11e-6, "rate_Bps": 5e9, "share_of_memcpy": 0.5}
    text = link_table(RESULT | {"contenders": {"shared memory": slow}})
    assert text.count("NOT reached") == 2


def test_no_room_is_one_line(capsys, monkeypatch):
    def full(name, size_bytes):
        raise shared_memory._no_room(name, size_bytes, "/dev/shm has room for 0 bytes")

    monkeypatch.setattr(shared_memory, "_check_room", full)
    monkeypatch.setattr(SharedMemory, "_map_on_windows", lambda *_, **__: full("x", 1))
    assert main(["bench", "link"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("baremetal: shared memory")
    assert len(error.splitlines()) == 1


def test_rounds_below_one_are_refused(capsys):
    assert main(["bench", "link", "--rounds", "0"]) == 2
    assert "--rounds 0" in capsys.readouterr().err
