"""What all tests share: hypothesis draws the same examples on every run; the form of a refusal."""

from contextlib import contextmanager

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
