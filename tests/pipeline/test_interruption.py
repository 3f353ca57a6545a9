"""Interrupting the main thread's work: at once, once, and never what comes after it."""

import os
import signal
import threading
import time
from contextlib import suppress

import pytest

from baremetal.pipeline.interruption import Interrupted, Interruption

LONG_S = 60.0  # nothing here waits so long, unless it is broken


def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.fixture
def interruption():
    """One, in a main thread whose handler of Ctrl-C is the usual one again afterwards."""
    before = signal.getsignal(signal.SIGINT)
    yield Interruption()
    assert signal.getsignal(signal.SIGINT) is before


def interrupt(interruption, patience_s=LONG_S, needless=False):
    return in_a_thread(lambda: interruption.interrupt(patience_s, lambda: needless))


def is_interrupted(interruption, work):
    """Do the work, which can be interrupted, and say whether it was."""
    try:
        with interruption.allowed():
            work()
    except Interrupted:
        return True
    return False


@pytest.mark.skipif(os.name != "posix", reason="Windows does not wake a waiting thread")
def test_a_thread_that_waits_is_woken(interruption):
    def work():
        interrupt(interruption)
        threading.Event().wait(LONG_S)

    assert is_interrupted(interruption, work)


@pytest.mark.skipif(os.name != "posix", reason="Windows does not wake a reading thread")
def test_a_system_call_is_broken_off(interruption):
    reading, writing = os.pipe()

    def work():
        interrupt(interruption)
        os.read(reading, 1)

    assert is_interrupted(interruption, work)
    os.close(reading)
    os.close(writing)


def test_whoever_handles_errors_of_his_own_does_not_take_it_for_one(interruption):
    def work():
        with suppress(Exception):
            interrupt(interruption).join()

    assert is_interrupted(interruption, work)


def test_what_comes_after_the_work_is_not_interrupted(interruption):
    assert not is_interrupted(interruption, lambda: None)
    interrupt(interruption).join()


def test_what_has_ended_by_itself_is_not_interrupted(interruption):
    assert not is_interrupted(interruption, lambda: interrupt(interruption, needless=True).join())


def test_it_happens_once(interruption):
    assert is_interrupted(interruption, lambda: interrupt(interruption).join())
    assert not is_interrupted(interruption, lambda: interrupt(interruption).join())


@pytest.mark.skipif(os.name != "posix", reason="there are no signals on their way")
def test_what_was_sent_arrives_before_the_work_ends(interruption, monkeypatch):
    """It is sent in the last moment, and comes when the end waits for it, not later."""
    late = []
    send = signal.pthread_kill
    monkeypatch.setattr(signal, "pthread_kill", lambda *signalled: late.append(signalled))
    monkeypatch.setattr(time, "sleep", lambda time_s: send(*late.pop()))
    assert is_interrupted(interruption, lambda: interrupt(interruption).join())


def test_what_had_better_be_finished_is(interruption):
    done = []

    def work():
        with interruption.finishing():
            thread = interrupt(interruption)
            with interruption.finishing():
                done.append("half")
            done.append("whole")
        thread.join()
        done.append("what comes behind it")

    assert is_interrupted(interruption, work)
    assert done == ["half", "whole"]


def test_but_not_for_ever(interruption):
    def work():
        with interruption.finishing():
            interrupt(interruption, patience_s=0.0).join()

    assert is_interrupted(interruption, work)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_ctrl_c_is_still_answered_by_whoever_did_before(interruption):
    heard = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with interruption.allowed():
            os.kill(os.getpid(), signal.SIGINT)
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_is_interrupted(interruption):
    done = []

    def work():
        with interruption.allowed():
            interrupt(interruption).join()
            done.append("whole")

    in_a_thread(work).join()
    assert done == ["whole"]
