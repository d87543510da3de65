"""One thread at a time: what runs under Pyro's handlers, draws from torch's global generator, or changes modes.

These are global to a process, or to a module: two threads that trained two models would draw each other's sites, and
two that predicted with one would leave it in the wrong mode. Short calls wait for one another. While a run of training
goes on in another thread they do not, since that may take days, but raise.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from l0bayes.errors import ThreadError

_POLL = 0.05  # seconds between looks at whether what is waited for has become a run

_lock = threading.RLock()
_runs: list[str] = []  # that the thread which holds the lock is in


@contextmanager
def one_thread(call: str, *, run: bool = False) -> Iterator[None]:
    """Within it, no other thread is in any such call.

    Args:
        call: what is called, for the error.
        run: whether it may take long, so that others are not to wait for its end.

    Raises:
        ThreadError: if another thread is in a run.
    """
    while not _lock.acquire(timeout=_POLL):
        if runs := tuple(_runs):
            raise ThreadError(
                f"{call}: another thread of this process is in {runs[0]}, and Pyro's handlers and the random state are "
                "global. Call them one after the other, or give each run a process of its own"
            )
    if run:
        _runs.append(call)
    try:
        yield
    finally:
        if run:
            _runs.pop()
        _lock.release()
