"""The networks that gates find, beside what a user would do instead: same data, same epochs, same schedule, same size.

    python benchmarks/compare.py --task wrn-16-1-half --data-dir DIR --seeds 0 1 2

CIFAR is read from a folder of images, ``train`` and ``test``, as ``l0bayes train --data folder`` does. Errors are those
after the last epoch; CPU seconds are of training alone, one thread. Rows that are stored already are not run again, and
several processes may fill one table.
"""

import argparse
import fcntl
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from comparison.methods import METHODS
from comparison.results import by_method, stored
from comparison.tasks import TASKS, Data, Task
from comparison.training import Finished, Job, share_of
from record import RESULTS, facts
from torch import Tensor, nn

from l0bayes.evaluating import evaluating
from l0bayes.inference.data.datasets import Split
from l0bayes.posterior.cost import cost

_ROWS = 1000


def error(net: nn.Module, split: Split) -> float | None:
    """Share of images whose most probable class is wrong; ``None`` of no images."""
    with evaluating(net):
        wrong = [
            (net(x).argmax(-1) != y).sum().item()
            for x, y in zip(split.x.split(_ROWS), split.y.split(_ROWS), strict=True)
        ]
    return sum(wrong) / len(split.y) if len(split.y) else None


def measure(job: Job, method: str, seed: int) -> tuple[dict[str, Any], Finished]:
    """Trains by one method from one seed."""
    torch.manual_seed(seed)
    start = time.process_time()
    finished = METHODS[method].run(job)
    seconds = time.process_time() - start
    kept = cost(finished.net, job.example)
    row: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "test_error": error(finished.net, job.data.test),
        "validation_error": error(finished.net, job.data.validation),
        "parameters": finished.weights or kept.parameters,
        "macs": kept.macs,
        "share": finished.share or share_of(job.task, finished.net, job.task.build(), job.example),
        "cpu_seconds": round(seconds, 1),
    }
    if finished.opened is not None:
        row["open"] = {name: int(gates.sum()) for name, gates in finished.opened.items()}
    return row | {"commit": facts(seed)["commit"]}, finished


def table(rows: list[dict[str, Any]]) -> str:
    """A line a method: test errors of all seeds, their mean, size and time."""
    lines = ["| method | test error, mean | each seed | validation | share | CPU s |", "|---" * 6 + "|"]
    for name, found in by_method(rows).items():
        each = ", ".join(f"{row['test_error']:.2%}" for row in found)
        error, validation, share = (_mean(found, of) for of in ("test_error", "validation_error", "share"))
        seconds = statistics.median(row["cpu_seconds"] for row in found)
        lines.append(f"| {METHODS[name].title} | {error} | {each} | {validation} | {share} | {seconds:.0f} |")
    return "\n".join(lines)


def _mean(rows: list[dict[str, Any]], of: str) -> str:
    known = [row[of] for row in rows if row[of] is not None]
    return f"{statistics.mean(known):.2%}" if known else "–"


def store(path: Path, task: Task, row: dict[str, Any]) -> None:
    """Adds a row to those that are stored, which other processes may do as well."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = [*stored(path), row]
        about = {**facts(row["seed"]), "target": str(task.target), "epochs": task.options.epochs, "results": rows}
        new = path.with_suffix(".new")
        new.write_text(json.dumps(about, indent=2) + "\n")
        new.replace(path)
        title = f"`python benchmarks/compare.py --task {path.stem}`, {task.target}"
        path.with_suffix(".md").write_text(f"{title}\n\n{table(rows)}\n")
    finally:
        os.close(folder)


def _checkpoint(folder: str | None, task: str, method: str, seed: int) -> Path | None:
    return None if folder is None else Path(folder) / f"{task}-{method}-{seed}.pt"


def run(task_name: str, data: Data, seed: int, methods: list[str], checkpoints: str | None) -> None:
    """Measures what is not stored yet from one seed; ours before what takes its widths."""
    task = TASKS[task_name]()
    path = RESULTS / "compare" / f"{task_name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Tensor] = {}
    for method in METHODS:
        known = any(row["method"] == method and row["seed"] == seed for row in stored(path))
        if method not in methods or known:
            continue
        if not METHODS[method].suits(task):
            print(f"{method}: not for {task_name}")
            continue
        if METHODS[method].follows_ours and not found:
            print(f"{method}: run it together with l0bayes, whose row must not be stored yet")
            continue
        job = Job(task, data, found, _checkpoint(checkpoints, task_name, method, seed))
        row, finished = measure(job, method, seed)
        found = dict(finished.opened or {}) if method == "l0bayes" else found
        store(path, task, row)
        print(json.dumps(row), flush=True)


def main() -> None:
    """Measures what is not stored yet, and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--checkpoints", help="a folder for those of runs of one stage, to resume from")
    asked = parser.parse_args()
    data = TASKS[asked.task]().data(Path(asked.data_dir))
    for seed in asked.seeds:
        run(asked.task, data, seed, asked.methods, asked.checkpoints)
    print(table(stored(RESULTS / "compare" / f"{asked.task}.json")))


if __name__ == "__main__":
    main()
