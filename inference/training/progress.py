"""What is seen of a run while it goes on: a bar on a terminal or in a notebook, a line an epoch in a file."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm import tqdm

_WIDTH = 80  # columns at most
_NOTEBOOK = "ZMQInteractiveShell"


class Progress(Protocol):
    """Is told of each epoch."""

    def __call__(self, row: Mapping[str, Any]) -> None:
        """Shows an epoch that is done, a row of the history."""


@contextmanager
def shown_progress(total: int, done: int, *, active: bool) -> Iterator[Progress]:
    """Shows how far a run is, on stderr.

    Args:
        total: epochs of the run, as far as can be told at its start.
        done: those that are done at its start.
        active: whether anything is shown.
    """
    if not active:
        yield lambda _row: None
    elif _in_notebook() or sys.stderr.isatty():
        with _bar(total, done) as bar:

            def show(row: Mapping[str, Any]) -> None:
                bar.set_postfix_str(" ".join(_words(row)), refresh=False)
                bar.update()

            yield show
    else:
        yield lambda row: print(_line(row, total), file=sys.stderr, flush=True)  # noqa: T201


def _bar(total: int, done: int) -> Any:
    options: dict[str, Any] = {"total": total, "initial": done, "unit": "epoch"}
    if _in_notebook():
        try:
            import ipywidgets  # type: ignore[import-not-found, unused-ignore] # noqa: F401, PLC0415 (not required)
            from tqdm.notebook import tqdm as widget  # noqa: PLC0415 (warns where there are no widgets)
        except ImportError:
            return tqdm(**options, ncols=_WIDTH)
        return widget(**options)
    width = min(_WIDTH, shutil.get_terminal_size().columns - 1)
    return tqdm(**options, ncols=width, bar_format="{n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining} {postfix}")


def _in_notebook() -> bool:
    """Whether this is a kernel with a page before it; nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == _NOTEBOOK


def _words(row: Mapping[str, Any]) -> list[str]:
    """What matters of an epoch, shortly: with everything that a history has there would be no room for a bar."""
    words = [str(row.get("phase", "")), f"elbo={row['elbo']:.4g}"]
    if "share" in row:
        words.append(f"share={row['share']:.3g}")
    elif "open_gates" in row:
        words.append(f"gates={row['open_gates']:.0f}")
    if "validation_error" in row:
        words.append(f"error={row['validation_error']:.3g}")
    return words


def _line(row: Mapping[str, Any], total: int) -> str:
    return f"epoch {row['epoch']:.0f}/{total}  {'  '.join(_words(row))}  {row['seconds']:.1f} s"[:_WIDTH]
