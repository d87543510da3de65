"""Speed as a ratio, taken interleaved so that both sides see the same machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Median time of one call of each function, and its median ratio to the first one's."""

    seconds: Mapping[str, float]
    ratio: Mapping[str, float]


def interleaved(functions: Mapping[str, Callable[[], object]], rounds: int = 15, seconds: float = 0.02) -> Timing:
    """Times functions in turn, A B A B, in one run.

    Args:
        functions: name to a function without arguments; the first is the reference of the ratios.
        rounds: how many times each is timed.
        seconds: about how long each timing takes; the function is repeated to fill it.

    Returns:
        Medians over the rounds of the time of one call and of its ratio to the reference in the same round.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        repeats[name] = max(1, int(seconds / max(time.perf_counter() - start, 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                function()
            times[name].append((time.perf_counter() - start) / repeats[name])
    reference = times[next(iter(functions))]
    return Timing(
        {name: statistics.median(values) for name, values in times.items()},
        {
            name: statistics.median(a / b for a, b in zip(values, reference, strict=True))
            for name, values in times.items()
        },
    )
