"""Ctrl-C that waits for the step in progress."""

import signal
import threading

import pytest

from l0bayes.inference.system.interrupt import deferred_interrupt


@pytest.fixture(autouse=True)
def _python_handler():
    """What a program starts with, and gets back whatever the test does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_is_noted_and_does_not_raise():
    with deferred_interrupt() as interruption:
        assert not interruption.requested
        signal.raise_signal(signal.SIGINT)
        assert interruption.requested


def test_the_second_raises_at_once():
    with deferred_interrupt() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.requested


@pytest.mark.parametrize("pressed", [0, 1])
def test_the_handler_comes_back(pressed):
    with deferred_interrupt():
        for _ in range(pressed):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_handler_comes_back_after_an_error():
    with pytest.raises(ZeroDivisionError), deferred_interrupt():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_the_callers_comes_back_and_hears_the_second():
    heard = []

    def mine(number, _frame):
        heard.append(number)

    signal.signal(signal.SIGINT, mine)
    with deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        assert heard == []
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is mine


def test_one_run_inside_another():
    with deferred_interrupt() as outer:
        with deferred_interrupt() as inner:
            signal.raise_signal(signal.SIGINT)
        assert (inner.requested, outer.requested) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert outer.requested


def test_an_ignored_signal_stays_ignored():
    """As in a job that a script starts in the background: the terminal's Ctrl-C is not meant for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with deferred_interrupt() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert not interruption.requested
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_outside_the_main_thread_nothing_is_changed():
    seen = []

    def work() -> None:
        with deferred_interrupt() as interruption:
            seen.append((interruption.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.default_int_handler)]
