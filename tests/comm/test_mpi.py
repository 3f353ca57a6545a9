"""The same lanes over MPI, where it is installed: `mpiexec -n 2 python mpi_ranks.py`."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import comm_ranks
import mpi_ranks
import pytest

from baremetal.comm.clock import VirtualClock
from baremetal.comm.endpoint import Endpoint, Exchange
from baremetal.comm.layout import make_layout

RANKS = Path(__file__).with_name("mpi_ranks.py")
BESIDE = str(Path(sys.executable).with_name("mpiexec"))
MPIEXEC = shutil.which(BESIDE) or shutil.which("mpiexec")
installed = pytest.mark.skipif(
    MPIEXEC is None or importlib.util.find_spec("mpi4py") is None, reason="no MPI: extra 'mpi'"
)


def mpi(what, ranks=2):
    # Python finds this test's package where this process does.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [MPIEXEC, "-n", str(ranks), sys.executable, str(RANKS), what]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def results():
    """What rank 0 of several runs found out, in one start of MPI."""
    done = mpi("runs")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@installed
def test_modelled_time_is_that_of_shared_memory(results, start):
    layout = make_layout(2, mpi_ranks.lanes(mpi_ranks.SHAPE))
    links = comm_ranks.LINKS
    with Exchange(layout) as exchange:
        process, _ = start(
            comm_ranks.relay_process, exchange.address, links, mpi_ranks.MESSAGES, 100, seed=3
        )
        with Endpoint(exchange.address, 0, links, seed=3) as ends:
            times = mpi_ranks.there_and_back(ends, VirtualClock(), mpi_ranks.MESSAGES)
        process.join()
    assert results["relay"] == times
    calm = len(times) * (110 + 1000 + 100 + 50 + 2000)
    assert times[-1][-1] > calm  # some were late, some were lost


@installed
def test_large_messages(results):
    assert len(results["large"]) == 4  # their contents are compared there


@installed
def test_messages_can_be_taken_in_another_order(results):
    assert results["order"] == [0, 0, 0, 1000, 1001, 1002, 1003, 1004, 1005]


@installed
def test_a_rank_that_raises_ends_them_all(nothing_left_of_mpi):
    done = mpi("raise")
    assert done.returncode != 0
    assert "baremetal: rank 1: F3 of stage 1 failed" in done.stderr


@installed
def test_another_number_of_ranks_is_refused():
    done = mpi("runs", ranks=1)
    assert done.returncode != 0
    assert "MPI started 1 ranks, and the plan has 2: mpiexec -n 2" in done.stderr


def test_without_mpi_it_says_what_to_install(monkeypatch, refused):
    from baremetal.comm.mpi import import_mpi

    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with refused("pip install 'baremetal[mpi]'"):
        import_mpi()
