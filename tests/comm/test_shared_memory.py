"""The segment: what it refuses, and that nobody takes it away."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from baremetal.comm import shared_memory
from baremetal.comm.shared_memory import SharedMemory, unlink

NAME = f"baremetal-test-{os.getpid()}"


@pytest.fixture
def segment():
    made = SharedMemory.create(NAME, 5000)
    yield made
    made.unlink()


def test_starts_with_zeros_and_is_shared(segment):
    other = SharedMemory.attach(NAME, 5000)
    assert segment.bytes.shape == other.bytes.shape == (5000,)
    assert not segment.bytes.any()
    segment.bytes[4999] = 7
    assert other.bytes[4999] == 7


def test_an_array_outlives_object_and_name():
    made = SharedMemory.create(NAME, 64)
    part = made.bytes[:8]
    made.unlink()
    del made
    part[:] = 3
    assert part.sum() == 24


def test_a_process_that_looks_in_does_not_take_it_along(segment):
    # With multiprocessing.shared_memory, before Python 3.13, the segment would be gone.
    program = (
        f"from baremetal.comm.shared_memory import SharedMemory; SharedMemory.attach('{NAME}', 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    SharedMemory.attach(NAME, 5000)


def test_refuses_a_taken_name(segment, refused):
    with refused(NAME, "exists already"):
        SharedMemory.create(NAME, 10)


def test_refuses_a_long_name(refused):
    SharedMemory.create("x" * 30, 1).unlink()
    with refused("30 characters"):
        SharedMemory.create("x" * 31, 1)


def test_refuses_what_is_not_there(refused):
    with refused(NAME, "is over"):
        SharedMemory.attach(NAME, 10)


def test_refuses_another_plan_s_segment(segment, refused):
    with refused("5000 bytes", "6000"):
        SharedMemory.attach(NAME, 6000)


def test_refuses_a_size_of_nothing(refused):
    with refused("at least one"):
        SharedMemory.create(NAME, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much room there is")
def test_refuses_what_does_not_fit_before_making_it(refused, monkeypatch):
    with refused("has room for", "shm-size"):
        SharedMemory.create(NAME, 2**60)
    # Somebody else was faster, and the room is gone between the look and the making.
    monkeypatch.setattr(shared_memory, "_check_room", lambda *_: None)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with refused("needs 100 bytes", "shm-size"):
        SharedMemory.create(NAME, 100)
    assert not unlink(NAME)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux can say which pages are there")
def test_pages_are_there_when_it_is_made():
    made = SharedMemory.create(NAME, 2**20)
    try:
        assert os.stat(f"/dev/shm/{NAME}").st_blocks * 512 == 2**20
        np.testing.assert_array_equal(made.bytes[::4096], 0)
    finally:
        made.unlink()
