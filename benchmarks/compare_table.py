"""All tasks of the comparison in one table: test error, mean of the seeds, and CPU seconds beside those of `thin`.

    python benchmarks/compare_table.py

Reads ``results/compare/*.json`` and writes ``results/compare/all.md``.
"""

import argparse
import statistics

from comparison.methods import METHODS
from comparison.results import Rows, by_method, stored
from comparison.tasks import TASKS
from record import RESULTS

FOLDER = RESULTS / "compare"


def cell(found: Rows, thin: float | None) -> str:
    """Mean and spread of the errors, the number of seeds, time as a multiple."""
    errors = [row["test_error"] for row in found]
    spread = f" ± {(max(errors) - min(errors)) / 2:.2%}" if len(errors) > 1 else ""
    seconds = statistics.median(row["cpu_seconds"] for row in found)
    times = "" if thin is None else f", {seconds / thin:.2f} ×"
    return f"{statistics.mean(errors):.2%}{spread} ({len(errors)}{times})"


def table() -> str:
    """A line a method, a column a task."""
    tasks = {task: found for task in TASKS if (found := by_method(stored(FOLDER / f"{task}.json")))}
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
