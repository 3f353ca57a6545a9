"""The doctor: what it finds here, and what it says about things that are wrong on purpose."""

import json

import numpy as np
import pytest

from baremetal.bench import doctor
from baremetal.bench.doctor import Finding, examine, report_text, run_doctor


@pytest.fixture
def quick(monkeypatch):
    """Without measuring the machine's speed."""
    monkeypatch.setattr(doctor, "_speed", list)


def finding(name):
    return next(finding for finding in examine() if finding.name == name)


def test_every_part_is_looked_at_and_nothing_fails_here():
    findings = examine()
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names)
    assert {
        "processor", "system", "python", "packages", "BLAS of scipy", "BLAS of numpy",
        "thread pool", "kernel cache", "matrix product float32", "matrix product float64",
        "matrix products", "memory bandwidth",
    } <= set(names)  # fmt: skip
    assert [finding for finding in findings if finding.state == "failure"] == []
    # Whatever is not good comes with advice, and only that.
    assert all(bool(finding.advice) == (finding.state != "good") for finding in findings)


@pytest.mark.usefixtures("quick")
def test_a_check_that_breaks_is_a_failure_and_the_others_still_run(monkeypatch):
    def broken():
        raise OSError("no such thing")

    before = {finding.name for finding in examine()}
    monkeypatch.setattr(doctor, "_versions", broken)
    findings = {finding.name: finding for finding in examine()}
    assert findings["broken"].found == "OSError: no such thing"
    assert findings["broken"].state == "failure"
    assert before - set(findings) == {"python", "packages"}


@pytest.mark.usefixtures("quick")
def test_wrong_matrix_products_are_a_failure_with_exit_status_one(monkeypatch):
    from baremetal.kernels.matmul import matmul

    monkeypatch.setattr(matmul, "run", lambda a, b, out: np.copyto(out, a @ b + 1))
    said = []
    assert run_doctor(as_json=False, show=said.append) == 1
    wrong = [line for line in said[0].splitlines() if line.startswith("FAIL")]
    assert [line.split()[1:4] for line in wrong] == [
        ["matrix", "product", "float32"], ["matrix", "product", "float64"]
    ]  # fmt: skip
    assert "reinstall SciPy" in said[0]


@pytest.mark.usefixtures("quick")
def test_a_cache_that_cannot_be_written_is_a_warning(monkeypatch):
    from baremetal.kernels.native import compiler

    monkeypatch.setattr(compiler, "cache_folder", lambda: None)
    cache = finding("kernel cache")
    assert cache.state == "warning"
    assert str(compiler.cache_root()) in cache.found
    assert "BAREMETAL_CACHE_DIR" in cache.advice


@pytest.mark.usefixtures("quick")
def test_fewer_threads_than_cores_are_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 512)
    threads = finding("thread pool")
    assert threads.state == "warning"
    assert "NUMBA_NUM_THREADS" in threads.advice


@pytest.mark.usefixtures("quick")
def test_a_held_back_blas_is_a_warning(monkeypatch):
    """The report is what `blas` would give; its own tests say when it warns."""
    library = {
        "library": "openblas", "version": "0.3.30", "architecture": "Prescott", "threads": 1,
        "path": "lib.so", "warning": "OPENBLAS_CORETYPE is set: unset it",
    }  # fmt: skip
    unknown = dict.fromkeys(library) | {"library": "unknown", "warning": ""}
    monkeypatch.setattr(
        "baremetal.kernels.native.blas.blas_report",
        lambda: {"scipy": library, "numpy": unknown},
    )
    assert finding("BLAS of scipy").state == "warning"
    assert "OPENBLAS_CORETYPE" in finding("BLAS of scipy").advice
    assert finding("BLAS of numpy").state == "good"
    assert "None" not in finding("BLAS of numpy").found


def test_the_report_marks_advises_and_counts():
    findings = [
        Finding("a", "fine"),
        Finding("long name", "slow", "warning", "do this"),
        Finding("b", "broken", "failure", "do that"),
    ]
    assert report_text(findings).splitlines() == [
        "ok    a          fine",
        "warn  long name  slow",
        "                 -> do this",
        "FAIL  b          broken",
        "                 -> do that",
        "2 of these need attention",
    ]
    assert report_text(findings[:1]).splitlines()[-1] == "everything is in order"


@pytest.mark.usefixtures("quick")
def test_json_is_one_object():
    said = []
    assert run_doctor(as_json=True, show=said.append) == 0
    (text,) = said
    findings = json.loads(text)["findings"]
    assert all(set(row) == {"name", "found", "state", "advice"} for row in findings)


# ---------------------------------------------------------------- the machine


def test_the_machine_is_described_in_json():
    from baremetal.bench.machine import describe_machine, machine_lines, usable_cores

    machine = describe_machine()
    assert json.loads(json.dumps(machine)) == machine
    assert machine["cores"] == usable_cores() >= 1
    assert machine["processor"]
    lines = machine_lines(machine)
    assert machine["processor"] in lines[0]
    assert [line.partition(":")[0] for line in lines[1:]] == ["BLAS of scipy", "BLAS of numpy"]


@pytest.mark.parametrize("answers", [True, False])
def test_a_mac_is_asked_for_its_processors_name(monkeypatch, answers):
    import subprocess
    from types import SimpleNamespace

    from baremetal.bench import machine

    def run(command, **options):
        assert command[0] == "sysctl"
        if not answers:
            raise OSError("no sysctl")
        return SimpleNamespace(stdout="Apple M1\n")

    monkeypatch.setattr(machine.Path, "is_file", lambda path: False)  # no /proc/cpuinfo
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(machine.platform, "processor", lambda: "arm")
    assert machine.processor_name() == ("Apple M1" if answers else "arm")
