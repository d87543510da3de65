"""What is left of a network, against what was asked for, in runs of 2, 8 and 30 epochs with the library's defaults.

    python benchmarks/landing.py --mnist DIR --cifar DIR

CIFAR is read from a folder of images, ``train`` and ``test``. So many images only that the shortest runs have some tens
of steps.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comparison.tasks import TASKS, Task
from record import record

from l0bayes import sparsify
from l0bayes.inference import HardConcreteGuide, Target, TensorBatches, fit
from l0bayes.models import Classifier

SEED = 0
EPOCHS = (2, 8, 30)


@dataclass(frozen=True)
class Asked:
    """A network of the comparison, so many images of its data, and what is asked of it."""

    task: Callable[[], Task]
    data: str
    rows: int
    gates: tuple[Any, ...]
    targets: tuple[tuple[Target, ...], ...]


PAPER = {"conv*": "unit", "fc*": "input"}
NETWORKS = {
    "LeNet-5": Asked(
        TASKS["lenet-6000"],
        "mnist",
        3000,
        ("unit", PAPER),
        ((Target(0.2),), (Target(0.014),), (Target(0.1, "macs"),), (Target(0.05), Target(0.15, "macs"))),
    ),
    "MLP": Asked(TASKS["mlp-18000"], "mnist", 3000, ("input",), ((Target(0.2),), (Target(0.03),))),
    "WRN-16-1": Asked(TASKS["wrn-16-1-half"], "cifar", 1500, ("unit",), ((Target(0.5, "macs"),), (Target(0.25),))),
}


def run(task: Task, batches: TensorBatches, gates: Any, targets: tuple[Target, ...], epochs: int) -> dict[str, Any]:
    """Trains towards some targets; what was reached, and whether the run was said to be short."""
    torch.manual_seed(SEED)
    x, _ = next(iter(batches))
    model = Classifier(sparsify(task.build(), x[:2], gates=gates), len(batches) * task.batch_size)
    guide, options = HardConcreteGuide(model), task.options.changed(epochs=epochs)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = fit(model, guide, batches, target=targets, options=options, progress=False)
    return {
        "epochs": epochs,
        "steps": epochs * len(batches),
        "gates": "unit and input" if isinstance(gates, dict) else gates,
        "asked": [str(target) for target in targets],
        "reached": [round(share, 5) for share in result.reached.values()],
        "off": [round(share / target.share - 1, 4) for target, share in result.reached.items()],
        "warnings": sorted({str(one.message).split(":")[0] for one in told if one.category is UserWarning}),
    }


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a network and target, a column a number of epochs."""
    heads = " | ".join(f"{epochs} epochs" for epochs in EPOCHS)
    lines = [f"| network, gates | asked | {heads} |", "|---" * (2 + len(EPOCHS)) + "|"]
    for name, rows in found.items():
        for key in dict.fromkeys((row["gates"], tuple(row["asked"])) for row in rows):
            same = [row for row in rows if (row["gates"], tuple(row["asked"])) == key]
            cells = [", ".join(f"{off:+.1%}" for off in row["off"]) for row in same]
            lines.append(f"| {name}, {key[0]} | {'; '.join(key[1])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains towards each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", default="data", help="folder that holds MNIST/raw")
    parser.add_argument("--cifar", default="data", help="folder that holds train and test")
    asked = parser.parse_args()
    found = {}
    for name, it in NETWORKS.items():
        task = it.task()
        split = task.data(Path(getattr(asked, it.data))).train
        batches = TensorBatches(split.x[: it.rows], split.y[: it.rows], task.batch_size, shuffle=True)
        found[name] = [
            run(task, batches, gates, targets, epochs)
            for gates in it.gates
            for targets in it.targets
            for epochs in EPOCHS
        ]
        for row in found[name]:
            print(row, flush=True)
    record("landing", SEED, found, table(found))


if __name__ == "__main__":
    main()
