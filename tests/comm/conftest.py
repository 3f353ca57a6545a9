"""After every test of this room, also a failing one, no segment, record or process is left."""

import multiprocessing
import sys
import tempfile
from pathlib import Path

import pytest

from baremetal.comm.endpoint import Endpoint, Exchange
from baremetal.comm.errors import CommError
from baremetal.comm.layout import make_layout
from baremetal.comm.leftovers import records_folder, sweep_leftovers
from baremetal.comm.shared_memory import SharedMemory, unlink

SPAWN = multiprocessing.get_context("spawn")
sys.path.insert(0, str(Path(__file__).parent))  # comm_ranks.py, for spawned processes too


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch, tmp_path_factory):
    """Records in a folder of the test's own, children too; what is left is cleared, then told."""
    folder = tmp_path_factory.mktemp("records")
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    made = []
    create = SharedMemory.create.__func__

    def create_and_note(cls, name, size_bytes):
        made.append(name)
        return create(cls, name, size_bytes)

    monkeypatch.setattr(SharedMemory, "create", classmethod(create_and_note))
    yield
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
        child.join()
    records = [path.name for path in records_folder().glob("*.run")]
    swept = sweep_leftovers()
    left = [name for name in made if still_there(name)]
    for name in left:
        unlink(name)
    assert not children, f"processes left: {children}"
    assert not swept + left, f"segments left: {swept + left}"
    assert not records, f"records left: {records}"


def still_there(name):
    try:
        SharedMemory.attach(name, 1)
    except CommError:
        return False
    return True


class Patience:
    """A duty of a rank that waits in vain: nobody else is there who could still send something."""

    rounds = 0

    def __call__(self):
        self.rounds += 1
        assert self.rounds < 1000, "this rank would wait for ever"


@pytest.fixture
def joined():
    """`joined(lanes, ...)`: an exchange and an endpoint for each of its ranks, in this process."""
    open_exchanges = []

    def join(*lanes, ranks=2, **options):
        exchange = Exchange(make_layout(ranks, lanes))
        open_exchanges.append(exchange)
        ends = [Endpoint(exchange.address, rank, **options) for rank in range(ranks)]
        for end in ends:
            end.waiting.duties.append(Patience())
        return exchange, ends

    yield join
    for exchange in open_exchanges:
        exchange.close()


@pytest.fixture
def start():
    """`start(function, ...)`: a process and our end of its pipe; killed when the test is over."""
    processes = []

    def begin(function, *arguments, **options):
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=function, args=arguments, kwargs={"pipe": theirs, **options})
        process.start()
        theirs.close()
        processes.append(process)
        return process, ours

    yield begin
    for process in processes:
        process.kill()
        process.join()
