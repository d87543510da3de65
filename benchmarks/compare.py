"""The networks that gates find, beside what a user would do instead: same data, same epochs, same schedule, same size.

    python benchmarks/compare.py --task wrn-16-1-half --data-dir DIR --seeds 0 1 2

CIFAR is read from a folder of images, ``train`` and ``test``, as ``l0bayes train --data folder`` does. Errors are those
after the last epoch; CPU seconds are of training alone, one thread. Rows that are stored already are not run again.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from compare_methods import METHODS, NEEDS_OURS, share_of
from compare_tasks import TASKS, Data, Task
from record import RESULTS, facts
from torch import Tensor, nn

from l0bayes.evaluating import evaluating
from l0bayes.inference.data.datasets import Split
from l0bayes.posterior.cost import cost

_ROWS = 1000


def error(net: nn.Module, split: Split) -> float:
    """Share of images whose most probable class is wrong."""
    with evaluating(net):
        wrong = [
            (net(x).argmax(-1) != y).sum().item()
            for x, y in zip(split.x.split(_ROWS), split.y.split(_ROWS), strict=True)
        ]
    return sum(wrong) / len(split.y)


def measure(task: Task, data: Data, method: str, seed: int, found: Any) -> tuple[dict[str, Any], Any]:
    """Trains by one method from one seed."""
    example: Tensor = data.train.x[:2]
    torch.manual_seed(seed)
    start = time.process_time()
    finished = METHODS[method](task, data, example, found)
    seconds = time.process_time() - start
    kept = cost(finished.net, example)
    row: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "test_error": error(finished.net, data.test),
        "validation_error": error(finished.net, data.validation),
        "parameters": kept.parameters,
        "macs": kept.macs,
        "share": share_of(task, finished.net, task.build(), example),
        "cpu_seconds": round(seconds, 1),
    }
    if finished.opened is not None:
        row["open"] = {name: int(gates.sum()) for name, gates in finished.opened.items()}
    return row, finished.opened


def table(rows: list[dict[str, Any]]) -> str:
    """A line a method: test errors of all seeds, their mean, size and time."""
    lines = ["| method | test error, mean | each seed | validation | share | CPU s |", "|---" * 6 + "|"]
    for method in METHODS:
        ours = sorted((row for row in rows if row["method"] == method), key=lambda row: row["seed"])
        if ours:
            means = {
                key: statistics.mean(row[key] for row in ours) for key in ("test_error", "validation_error", "share")
            }
            each = ", ".join(f"{row['test_error']:.2%}" for row in ours)
            seconds = statistics.median(row["cpu_seconds"] for row in ours)
            lines.append(
                f"| {method} | {means['test_error']:.2%} | {each} | {means['validation_error']:.2%} "
                f"| {means['share']:.1%} | {seconds:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measures what is not stored yet, and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    asked = parser.parse_args()
    task = TASKS[asked.task]()
    data = task.data(Path(asked.data_dir))
    path = RESULTS / "compare" / f"{asked.task}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = json.loads(path.read_text())["results"] if path.exists() else []
    for seed in asked.seeds:
        found = None
        for method in METHODS:  # ours before what takes its widths
            if method not in asked.methods or any(r["method"] == method and r["seed"] == seed for r in rows):
                continue
            if method in NEEDS_OURS and found is None:
                print(f"{method}: run it together with l0bayes")
                continue
            row, opened = measure(task, data, method, seed, found)
            found = opened if method == "l0bayes" else found
            rows.append(row)
            print(json.dumps(row), flush=True)
            text = table(rows)
            stored = {**facts(seed), "target": str(task.target), "epochs": task.options.epochs, "results": rows}
            path.write_text(json.dumps(stored, indent=2) + "\n")
            path.with_suffix(".md").write_text(f"`{stored['command']}`, {task.target}\n\n{text}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
