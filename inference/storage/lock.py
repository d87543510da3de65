"""One run at a time for each file: what is being written is locked, and what killed runs left behind is removed."""

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from l0bayes.errors import FileInUseError
from l0bayes.inference.storage.files import leftovers
from l0bayes.inference.system.processes import Processes


@contextmanager
def claimed(**files: Path | None) -> Iterator[None]:
    """Within it, files belong to this run alone, whatever other processes do; the system frees them if it dies.

    Temporary files that killed runs left of them are removed. Of several processes that train together the first claims
    for all.

    Args:
        files: argument, for the error, to the file; missing folders are made.

    Raises:
        FileInUseError: if another run has one of them.
        OSError: if a lock cannot be made beside one.
    """
    with ExitStack() as stack:
        if Processes().first:
            for argument, path in files.items():
                if path is not None:
                    stack.enter_context(_locked(argument, path))
        yield


@contextmanager
def _locked(argument: str, path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):  # nobody can write here; a finished run can be read all the same
        yield
        return
    beside = path.with_name(f".{path.name}.lock")
    lock = FileLock(beside, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise FileInUseError(
            f"{argument}: another run is writing {path}. Wait until it is over, or give another path"
        ) from error
    except NotImplementedError:
        warnings.warn(
            f"{argument}: {path} is on a file system without locks; make sure that no other run writes it", stacklevel=2
        )
    try:
        for old in leftovers(path):
            old.unlink(missing_ok=True)
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # not while it is open, on Windows
                beside.unlink()  # before it is free: who opened this very file sees that it is gone, and looks again
            lock.release()
