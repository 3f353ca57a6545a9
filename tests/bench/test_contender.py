"""The protocol between a benchmark and its contenders, with a worker module of the test's own."""

import os
import textwrap

import pytest

from baremetal.bench import contender as contender_module
from baremetal.bench.contender import Contender, check_at_least_one, check_peer, check_threads
from baremetal.errors import BaremetalError

WORKER = """
    import os, sys
    from baremetal.bench.contender import serve

    if "die early" in sys.argv:
        sys.exit(3)

    def handle(request):
        if request.get("die"):
            os._exit(4)
        return {"request": request, "arguments": sys.argv[1:], "environment": dict(os.environ)}

    serve("stub", handle, sys.stdout)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a worker module that only this test's processes can import."""
    (tmp_path / "stub_worker.py").write_text(textwrap.dedent(WORKER), encoding="utf-8")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)
    return "stub_worker"


def test_requests_are_answered_in_order_by_a_process_of_its_own(module, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    contender = Contender("stub", [module, "an argument"], threads=2)
    try:
        answers = [contender.ask({"number": number}) for number in (1, 2)]
    finally:
        contender.close()
    assert [answer["request"] for answer in answers] == [{"number": 1}, {"number": 2}]
    assert answers[0]["arguments"] == ["an argument", "2"]
    environment = answers[0]["environment"]
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "2"
    assert "OPENBLAS_CORETYPE" not in environment  # it would hold back our BLAS and no peer's
    assert contender._process.poll() is not None


def test_a_worker_that_dies_early_is_reported_and_cleaned_up(module, monkeypatch):
    made = []
    popen = contender_module.subprocess.Popen
    monkeypatch.setattr(
        contender_module.subprocess,
        "Popen",
        lambda *args, **kwargs: made.append(popen(*args, **kwargs)) or made[-1],
    )
    with pytest.raises(BaremetalError, match="'stub' ended with status 3"):
        Contender("stub", [module, "die early"], threads=1)
    assert made[0].stdin.closed
    assert made[0].stdout.closed


def test_a_worker_that_dies_between_requests_is_reported(module):
    contender = Contender("stub", [module], threads=1)
    try:
        for _ in range(2):  # the second request finds nobody to read it
            with pytest.raises(BaremetalError, match="'stub' ended with status 4"):
                contender.ask({"die": True})
    finally:
        contender.close()


def test_peers_that_are_unknown_or_missing_are_refused(monkeypatch):
    known = ("baremetal", "torch")
    with pytest.raises(BaremetalError, match="unknown peer 'tensorflow': choose from torch"):
        check_peer("tensorflow", known)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_peer("baremetal", known)
    with pytest.raises(BaremetalError, match=r"pip install 'baremetal\[peers\]'"):
        check_peer("torch", known)


def test_counts_below_one_and_too_many_threads_are_refused():
    check_at_least_one(rounds=1)
    with pytest.raises(BaremetalError, match="--rounds 0"):
        check_at_least_one(steps=5, rounds=0)
    check_threads(1)
    for threads in (0, 4096):
        with pytest.raises(BaremetalError, match=f"--threads {threads}"):
            check_threads(threads)
