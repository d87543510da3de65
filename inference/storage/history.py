"""The history of a run as a file that people and spreadsheets read, kept up to date while it runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from l0bayes.arguments import check_file
from l0bayes.inference.storage.files import write_bytes

_SUFFIXES = (".csv", ".json")


def history_path(path: str | Path | None) -> Path | None:
    """The path, if it ends as a history may.

    Raises:
        ValueError: if it is neither ``.csv`` nor ``.json``.
    """
    if path is None:
        return None
    path = check_file("history", path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"history must end in {' or '.join(_SUFFIXES)}; got {str(path)!r}")
    return path


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes all rows, whole or not at all; ``.json`` is a list of them."""
    table = pd.DataFrame(list(rows))
    text = table.to_csv(index=False) if path.suffix == ".csv" else table.to_json(orient="records", indent=2) + "\n"
    write_bytes(path, text.encode())
