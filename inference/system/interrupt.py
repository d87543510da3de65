"""Ctrl-C that waits for the step in progress."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Interruption:
    """Whether Ctrl-C was pressed since :func:`deferred_interrupt` began."""

    requested = False


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Notes the first Ctrl-C instead of raising in the middle of a step; a second one raises as usual.

    Outside the main thread, where Python delivers no signals, and where Ctrl-C is ignored, nothing is changed.
    """
    interruption = Interruption()
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is signal.SIG_IGN:
        yield interruption
        return

    def note(_signal: int, _frame: Any) -> None:
        interruption.requested = True
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, previous)
