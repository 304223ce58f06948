"""The home thread: work is done there, in order, and interrupts do not leave it running."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
import weakref

import pytest

from pysemi.errors import BackendUnavailableError
from pysemi.runtime.home import CallersHome, Gate, Home, StopFlag


def test_all_work_is_done_on_one_thread_that_is_not_the_callers():
    home = Home()
    places = {home.run(threading.get_ident) for _ in range(3)}
    assert len(places) == 1
    assert threading.get_ident() not in places


def test_results_and_exceptions_come_back_as_they_are():
    home = Home()
    thing = object()
    assert home.run(lambda: thing) is thing
    error = ValueError("of the job")

    def fail():
        raise error

    with pytest.raises(ValueError, match="of the job") as caught:
        home.run(fail)
    assert caught.value is error
    assert home.run(lambda: 1) == 1


def test_a_job_can_hand_over_another_and_does_not_wait_for_itself():
    home = Home()
    assert home.run(lambda: home.run(lambda: 7)) == 7


def most_at_a_time(home, threads, here=0):
    """How many jobs ran at once, at most: of some threads, and of this one if it enters itself."""
    running = most = 0

    def job():
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.001)
        running -= 1

    others = [
        threading.Thread(target=lambda: [home.run(job) for _ in range(20)]) for _ in range(threads)
    ]
    for thread in others:
        thread.start()
    for _ in range(here):
        home.run_here(job, StopFlag())
    for thread in others:
        thread.join()
    return most


def test_threads_take_turns():
    assert most_at_a_time(Home(), threads=4) == 1


@pytest.mark.parametrize("interrupts", [1, 3])
def test_an_interrupt_sets_the_flag_and_is_raised_when_the_job_has_ended(interrupts):
    home = Home()
    stop = StopFlag()
    ended = threading.Event()

    def job():
        while not stop.is_set:
            time.sleep(0.001)
        time.sleep(0.3)  # as a step lasts; more interrupts come meanwhile
        ended.set()

    def interrupt():
        for _ in range(interrupts):
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        home.run(job, stop)
    assert ended.is_set()
    assert home.run(lambda: 1) == 1


def test_the_main_thread_enters_where_the_home_thread_is_outside():
    home = Home()
    assert not home.admits_caller
    events = []
    gate = Gate(lambda: events.append("out") or len(events), lambda told: events.append(told))
    home.run(lambda: home.open(gate))
    assert home.admits_caller
    stop = StopFlag()
    assert home.run_here(threading.get_ident, stop) == threading.get_ident()
    assert events == ["out"]
    home.run(lambda: events.append("work"))
    assert home.run_here(lambda: "here", stop) == "here"  # waits until the home thread is out
    assert events == ["out", 1, "work", "out"]

    elsewhere = []
    thread = threading.Thread(target=lambda: elsewhere.append(home.admits_caller))
    thread.start()
    thread.join()
    assert elsewhere == [False]


def test_only_one_thread_is_inside_at_a_time():
    home = Home()
    home.run(lambda: home.open(Gate(lambda: 0, lambda _: None)))
    assert most_at_a_time(home, threads=2, here=40) == 1


def test_inside_the_main_thread_does_not_wait_for_itself():
    home = Home()
    home.run(lambda: home.open(Gate(lambda: 0, lambda _: None)))
    stop = StopFlag()

    def nested():
        return home.run(threading.get_ident), home.run_here(threading.get_ident, stop)

    assert home.run_here(nested, stop) == (threading.get_ident(),) * 2
    with pytest.raises(ZeroDivisionError):
        home.run_here(lambda: 1 / 0, stop)
    assert home.run(threading.get_ident) != threading.get_ident()


def test_the_error_that_a_signals_handler_raised_is_raised_again():
    class OwnError(Exception):
        pass

    error = OwnError("of a handler")
    stop = StopFlag()
    with pytest.raises(KeyboardInterrupt):
        stop.raise_error()
    for value in (type(error), error):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
    stop._memory.kind, stop._memory.value = id(type(error)), id(error)
    with pytest.raises(OwnError) as caught:
        stop.raise_error()
    assert caught.value is error
    with pytest.raises(KeyboardInterrupt):  # once
        stop.raise_error()


def test_what_a_job_made_does_not_outlive_it():
    home = Home()

    class Made:
        pass

    kept = home.run(lambda: weakref.ref(Made()))
    made = home.run(Made)
    gone = weakref.ref(made)
    del made
    assert kept() is None
    assert gone() is None


def test_a_forked_child_is_told_so(monkeypatch):
    home = Home()
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    with pytest.raises(BackendUnavailableError, match="spawn"):
        home.run(lambda: None)


def test_someone_elses_julia_is_for_the_main_thread_only():
    home = CallersHome()
    assert home.run(threading.current_thread) is threading.main_thread()
    failed = []

    def elsewhere():
        try:
            home.run(lambda: None)
        except BackendUnavailableError as error:
            failed.append(str(error))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "juliacall was imported before" in failed[0]
