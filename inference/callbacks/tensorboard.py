"""The history of a run for TensorBoard, an extra."""

from pathlib import Path
from typing import Any

from l0bayes.arguments import checked
from l0bayes.inference.callbacks.callback import Callback, Run


class TensorBoard(Callback):
    """Writes what is measured after each epoch as scalars.

    Args:
        folder: where the event files go.

    Raises:
        ValueError: if tensorboard is not installed.
    """

    @checked
    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra, and heavy)
        except ImportError as error:
            raise ValueError(
                f"tensorboard={str(folder)!r} needs the extra: pip install 'l0bayes[tensorboard]'"
            ) from error
        self._make: Any = SummaryWriter
        self._folder = str(folder)
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        """Opens the file; what an earlier run wrote beyond the epochs that are done is hidden."""
        self._writer = self._make(self._folder, purge_step=run.epoch + 1)

    def on_epoch(self, run: Run) -> None:
        """Writes a row of the history."""
        for name, value in run.measured.items():
            if name not in ("epoch", "phase"):
                self._writer.add_scalar(name, value, run.epoch)
        self._writer.flush()

    def on_end(self, run: Run) -> None:  # noqa: ARG002
        """Closes it."""
        if self._writer is not None:
            self._writer.close()
