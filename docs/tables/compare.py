"""The comparison with what a user would do instead, from ``benchmarks/results/compare``."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from tables.reading import RESULTS, stored, table

Rows = list[dict[str, Any]]

# The tasks in the order in which they are told, and how they are called; one that was not measured is left out.
TASKS = {
    "lenet-6000": "LeNet-5, MNIST, 6,000 parameters",
    "lenet-4150": "LeNet-5, MNIST, 4,150 parameters",
    "mlp-18000": "MLP, MNIST, 18,000 parameters",
    "mlp-8000": "MLP, MNIST, 8,000 parameters",
    "mlp-2700": "MLP, MNIST, 2,700 parameters",
    "wrn-16-1-half": "WRN-16-1, CIFAR-10 (JPEG), half of the MACs",
    "wrn-16-1-quarter": "WRN-16-1, a quarter",
    "wrn-16-1-twentieth": "WRN-16-1, a twentieth",
    "wrn-16-2-quarter": "WRN-16-2, a quarter",
    "wrn-16-1-half-long": "WRN-16-1, half, all images, longer",
    "wrn-16-1-quarter-long": "WRN-16-1, a quarter, all images, longer",
}
METHODS = {
    "dense": "dense",
    "thin": "thin, from scratch",
    "magnitude": "Torch-Pruning, magnitude",
    "taylor": "Torch-Pruning, Taylor",
    "fisher": "Torch-Pruning, Fisher",
    "group-lasso": "Torch-Pruning, group sparsity",
    "slimming": "Torch-Pruning, network slimming",
    "l0bayes": "**l0bayes**",
    "taught": "l0bayes, taught by the dense network",
    "widths": "widths of l0bayes, from scratch",
    "ticket": "units of l0bayes, rewound",
    "svi": "l0bayes, drawn gates (svi)",
    "paper": "l0bayes, the paper's accounting (svi)",
    "gradual": "single weights, gradual magnitude",
    "str": "single weights, STR",
    "lottery": "single weights, lottery ticket, in four times the epochs",
}
_SPARSE = 1 / 14  # of a network, and less
_PRUNING = ("magnitude", "taylor", "fisher", "group-lasso", "slimming")


def found(task: str) -> dict[str, Rows]:
    """Method to its rows, for those that have any; empty if the task was not measured."""
    if not (RESULTS / "compare" / f"{task}.json").is_file():
        return {}
    rows = stored(f"compare/{task}")["results"]
    by = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    return {name: own for name, own in by.items() if own}


def error(rows: Rows) -> float:
    """Mean over seeds, in per cent."""
    return 100 * statistics.mean(row["test_error"] for row in rows)


def spread(rows: Rows) -> float:
    """Half the range over seeds, in percentage points."""
    errors = [100 * row["test_error"] for row in rows]
    return (max(errors) - min(errors)) / 2


def _cell(rows: Rows | None) -> str:
    if rows is None:
        return "–"
    if len(rows) == 1:
        return f"{error(rows):.2f}"
    return f"{error(rows):.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{spread(rows):.2f}"


def _seconds(own: dict[str, Rows], name: str) -> str:
    if "thin" not in own or name not in own:
        return "–"
    seconds = {one: statistics.median(row["cpu_seconds"] for row in own[one]) for one in (name, "thin")}
    return f"{seconds[name] / seconds['thin']:.2f}"


def _short() -> str:
    """A line a task: what somebody would draw up, what somebody would prune, and ours."""
    rows = []
    for task, title in TASKS.items():
        own = found(task)
        if "l0bayes" not in own:
            continue
        pruned = [own[name] for name in _PRUNING if name in own]
        best = min(pruned, key=error) if pruned else None
        cells = [own.get("dense"), own.get("thin"), best, own.get("str")]
        rows.append(
            [
                title,
                *map(_cell, cells),
                f"{_cell(own['l0bayes'])} ({len(own['l0bayes'])})",
                _seconds(own, "l0bayes"),
            ]
        )
    head = ["test error, %", "full network", "thin, from scratch", "best pruning by units", "single weights (STR)"]
    return table([*head, "l0bayes (seeds)", "time / thin"], rows)


def _full(task: str) -> str:
    own = found(task)
    rows = [
        [
            METHODS[name],
            _cell(rows),
            len(rows),
            f"{100 * statistics.mean(row['share'] for row in rows):.3g}",
            _seconds(own, name),
        ]
        for name, rows in own.items()
    ]
    return table(["", "test error, %", "seeds", "size, %", "time / thin"], rows)


def _all() -> str:
    """A heading and a table for each task."""
    parts = []
    for task, title in TASKS.items():
        if found(task):
            epochs = stored(f"compare/{task}")["epochs"]
            parts.append(
                f"**{title}**, {epochs} epochs (`python benchmarks/compare.py --task {task}`)\n\n{_full(task)}"
            )
    return "\n\n".join(parts)


def _sparse() -> str:
    """Where at most a fifteenth is left, from the most to the least: a thin network, single weights, and ours."""
    rows = []
    for task, title in TASKS.items():
        own = found(task)
        if "l0bayes" not in own or (left := statistics.mean(row["share"] for row in own["l0bayes"])) > _SPARSE:
            continue
        rows.append(
            (left, [title, f"{1 - left:.1%}", *(_cell(own.get(name)) for name in ("thin", "gradual", "l0bayes"))])
        )
    rows.sort(key=lambda row: -row[0])
    head = ["test error, %", "taken away", "thin, from scratch", "single weights, gradual magnitude", "l0bayes"]
    return table(head, [cells for _, cells in rows])


def verdict(own: Rows, other: Rows) -> str:
    """How far one is ahead of another, in percentage points, and whether that is more than chance of seeds."""
    ahead = error(other) - error(own)
    if min(len(own), len(other)) == 1:
        word = "one seed"
    else:
        word = "beyond seeds" if abs(ahead) > spread(own) + spread(other) else "within seeds"
    return f"{ahead:+.2f}\N{NO-BREAK SPACE}({word})".replace(" ", "\N{NO-BREAK SPACE}")


def _ahead() -> str:
    """How far l0bayes is ahead of each, in percentage points."""
    others = {"thin": "thin", "magnitude": "magnitude pruning", "str": "single weights (STR)", "dense": "full network"}
    rows = []
    for task, title in TASKS.items():
        own = found(task)
        if "l0bayes" in own:
            rows.append([title, *(verdict(own["l0bayes"], own[name]) if name in own else "–" for name in others)])
    return table(["l0bayes ahead, points", *others.values()], rows)


def _error(task: str, method: str) -> str:
    return f"{error(found(task)[method]):.1f} %"


def _count() -> str:
    """In how many tasks l0bayes errs less than a thin network, and in how many beyond what seeds differ by."""
    pairs = [(own["l0bayes"], own["thin"]) for task in TASKS if {"l0bayes", "thin"} <= (own := found(task)).keys()]
    less = sum(error(ours) < error(thin) for ours, thin in pairs)
    beyond = sum("+" in (said := verdict(ours, thin)) and "beyond" in said for ours, thin in pairs)
    return f"in {less} of {len(pairs)} tasks, and beyond what seeds differ by in {beyond} of them"


def _against(task: str, one: str, other: str) -> str:
    """How far a method is ahead of another, or behind, in words."""
    own = found(task)
    number, word = verdict(own[one], own[other]).replace("\N{NO-BREAK SPACE}", " ").split(" ", 1)
    return f"{number[1:]} points {'ahead' if number[0] == '+' else 'behind'} {word}"


def _best_pruning(task: str) -> str:
    """Which pruning by units errs least, and how far it is ahead of l0bayes, or behind."""
    own = found(task)
    best = min((name for name in _PRUNING if name in own), key=lambda name: error(own[name]))
    return f"the best of its kind, {METHODS[best]}, is {_against(task, best, 'l0bayes')} of l0bayes"


def _largest_time() -> str:
    ratios = [_seconds(found(task), "l0bayes") for task in TASKS]
    return max(ratio for ratio in ratios if ratio != "–")


PLACES: dict[str, Callable[[], str]] = {
    "compare-short": _short,
    "compare-all": _all,
    "compare-sparse": _sparse,
    "compare-ahead": _ahead,
    "compare-count": _count,
    "compare-longest": _largest_time,
    "against-magnitude": partial(_against, "wrn-16-1-half", "l0bayes", "magnitude"),
    "str-against": partial(_against, "wrn-16-1-half", "str", "l0bayes"),
    "best-pruning": partial(_best_pruning, "wrn-16-1-half"),
    "svi-half": partial(_error, "wrn-16-1-half", "svi"),
    "dense-half": partial(_error, "wrn-16-1-half", "dense"),
}
