"""The history of a run for TensorBoard, an extra."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Log = Callable[[Mapping[str, Any]], None]


def tensorboard_log(folder: str | Path | None, epoch: int) -> Log:
    """Writes rows of a history as scalars.

    Args:
        folder: where the event files go; ``None`` writes none.
        epoch: epochs that are done; what an earlier run wrote beyond them is hidden.

    Returns:
        A function that writes one row.

    Raises:
        ValueError: if tensorboard is not installed.
    """
    if folder is None:
        return lambda _row: None
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (an extra, and heavy)
    except ImportError as error:
        raise ValueError(f"tensorboard={str(folder)!r} needs the extra: pip install 'l0bayes[tensorboard]'") from error
    writer: Any = SummaryWriter(str(folder), purge_step=epoch + 1)

    def log(row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if name not in ("epoch", "phase"):
                writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return log
