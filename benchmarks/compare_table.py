"""All tasks of the comparison in one table: test error, mean of the seeds, and CPU seconds beside those of `thin`.

    python benchmarks/compare_table.py

Reads ``results/compare/*.json`` and writes ``results/compare/all.md``.
"""

import argparse
import json
import statistics
from typing import Any

from comparison.methods import METHODS
from comparison.tasks import TASKS
from record import RESULTS

FOLDER = RESULTS / "compare"


def rows_of(task: str) -> dict[str, list[dict[str, Any]]]:
    """Method to its rows, by seed; of a task that was not measured none."""
    path = FOLDER / f"{task}.json"
    rows = json.loads(path.read_text())["results"] if path.exists() else []
    by = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    return {name: sorted(found, key=lambda row: row["seed"]) for name, found in by.items() if found}


def cell(found: list[dict[str, Any]], thin: float | None) -> str:
    """Mean and spread of the errors, the number of seeds, time as a multiple."""
    errors = [row["test_error"] for row in found]
    spread = f" ± {(max(errors) - min(errors)) / 2:.2%}" if len(errors) > 1 else ""
    seconds = statistics.median(row["cpu_seconds"] for row in found)
    times = "" if thin is None else f", {seconds / thin:.2f} ×"
    return f"{statistics.mean(errors):.2%}{spread} ({len(errors)}{times})"


def table() -> str:
    """A line a method, a column a task."""
    tasks = {task: found for task in TASKS if (found := rows_of(task))}
    lines = [f"| test error | {' | '.join(tasks)} |", "|---" * (1 + len(tasks)) + "|"]
    for name, method in METHODS.items():
        if not any(name in found for found in tasks.values()):
            continue
        cells = []
        for found in tasks.values():
            thin = statistics.median(row["cpu_seconds"] for row in found["thin"]) if "thin" in found else None
            cells.append(cell(found[name], thin) if name in found else "")
        lines.append(f"| {method.title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints and writes it."""
    argparse.ArgumentParser(description=__doc__).parse_args()  # no options: only --help
    text = (
        "Mean and half the range over seeds; in brackets the number of seeds, and CPU seconds as a multiple of those "
        f"of the thin network.\n\n{table()}\n"
    )
    print(text)
    (FOLDER / "all.md").write_text(text)


if __name__ == "__main__":
    main()
