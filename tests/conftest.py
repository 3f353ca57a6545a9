"""What all tests share: hypothesis draws the same examples on every run; the form of a refusal."""

from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from baremetal.errors import BaremetalError

settings.register_profile(
    "repeatable",
    derandomize=True,  # the same examples everywhere: a red test stays red until it is mended
    deadline=None,  # wall-clock thresholds do not belong in tests
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")


@pytest.fixture
def refused():
    """`with refused("word", ...)`: a BaremetalError of one printable line with these words."""

    @contextmanager
    def check(*words):
        with pytest.raises(BaremetalError) as caught:
            yield
        message = str(caught.value)
        assert message.isprintable(), message
        for word in words:
            assert word in message

    return check


@pytest.fixture
def nothing_left_of_mpi():
    """MPICH's named memory is gone, or some process still maps it (then it is another run's)."""
    before = set(Path("/dev/shm").glob("mpich_shm_*"))
    yield
    new = set(Path("/dev/shm").glob("mpich_shm_*")) - before
    mapped = ""
    for path in Path("/proc").glob("[0-9]*/maps") if new else ():
        with suppress(OSError):
            mapped += path.read_text(encoding="utf-8", errors="replace")
    left = [path for path in new if str(path) not in mapped]
    for path in left:
        path.unlink(missing_ok=True)
    assert not left, f"MPI's memory left: {left}"
