"""Interleaved timing, with a clock that only the timed functions move."""

import time

import pytest

from l0bayes.inference.system.timing import interleaved


@pytest.fixture
def clock(monkeypatch):
    """A clock, and a maker of functions that take the given seconds, one after the other, the last for good."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def taking(*seconds: float):
        left = list(seconds)

        def function() -> None:
            function.calls += 1
            now[0] += left.pop(0) if len(left) > 1 else left[0]

        function.calls = 0
        return function

    return taking


def test_constant_speeds(clock):
    timing = interleaved({"slow": clock(1.0), "fast": clock(0.25)}, rounds=5)
    assert timing.seconds == {"slow": 1.0, "fast": 0.25}
    assert timing.ratio == {"slow": 1.0, "fast": 0.25}


def test_short_functions_are_repeated_to_fill_the_time(clock):
    fast, slow = clock(0.125), clock(2.0)
    timing = interleaved({"fast": fast, "slow": slow}, rounds=4, seconds=1.0)
    assert (fast.calls, slow.calls) == (2 + 4 * 8, 2 + 4 * 1)
    assert timing.ratio["slow"] == 16.0


def test_median_over_rounds_not_mean(clock):
    warm_up = (1.0, 1.0)
    one_slow_round = clock(*warm_up, 1.0, 1000.0, 1.0, 1.0, 1.0)
    timing = interleaved({"steady": clock(2.0), "hiccup": one_slow_round}, rounds=5)
    assert timing.seconds["hiccup"] == 1.0
    assert timing.ratio["hiccup"] == 0.5


def test_ratios_are_taken_within_a_round(clock):
    """A round in which the machine is slow is slow for both: the ratios are 2, 1 and 4, those of the medians 4."""
    warm_up = (1.0, 1.0)
    first, second = clock(*warm_up, 1.0, 10.0, 1.0), clock(*warm_up, 2.0, 10.0, 4.0)
    timing = interleaved({"first": first, "second": second}, rounds=3)
    assert timing.seconds == {"first": 1.0, "second": 4.0}
    assert timing.ratio == {"first": 1.0, "second": 2.0}


def test_functions_take_turns(monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(ticks)))
    calls = []
    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "aabb" + 3 * "ab"
