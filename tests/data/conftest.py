"""What the tests of this room share: the form of every refusal."""

from contextlib import contextmanager

import pytest

from baremetal.errors import BaremetalError


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
