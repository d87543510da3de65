"""The rows of the comparison as they are stored."""

import json
from pathlib import Path
from typing import Any

from comparison.methods import METHODS

Rows = list[dict[str, Any]]


def stored(path: Path) -> Rows:
    """The rows of a task; none of one that was not measured."""
    rows: Rows = json.loads(path.read_text())["results"] if path.exists() else []
    return rows


def by_method(rows: Rows) -> dict[str, Rows]:
    """Method to its rows in the order of the seeds, for those that have any, in the order of the methods."""
    by = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    return {name: sorted(found, key=lambda row: row["seed"]) for name, found in by.items() if found}
