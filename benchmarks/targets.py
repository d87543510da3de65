"""How near runs come to what was asked to be left of LeNet-5 on MNIST, or of WRN-16-1 on CIFAR.

Shares of parameters, of multiply-accumulates, of the measured time of a forward pass, and of single layers; each a
short training of its own.
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from recipes import WIDE_RESNET
from record import record

from l0bayes.inference import Target, evaluate, fit
from l0bayes.inference.command_line.job import Job
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.data.datasets import load_data

TARGETS: dict[str, list[tuple[Target, ...]]] = {
    "lenet5": [
        (Target(0.2),),
        (Target(0.03),),
        (Target(0.1, "macs"),),
        (Target(0.05), Target(0.2, "macs")),
        (Target(0.4, "parameters", "conv*"), Target(0.02, "parameters", "fc*")),
        (Target(0.4, "latency"),),
    ],
    "wrn": [(Target(0.5, "macs"),), (Target(0.3),)],
}


def options(network: str, asked: argparse.Namespace) -> TrainOptions:
    """How the network is trained."""
    shared: dict[str, Any] = {
        "data": asked.data,
        "data_dir": asked.data_dir,
        "epochs": asked.epochs,
        "selection": "svi",
        "seed": asked.seed,
    }
    if network == "lenet5":
        return TrainOptions(**shared, network="lenet5", batch_size=100, lr=1e-3)
    return TrainOptions(**shared, **WIDE_RESNET, gates="unit", batch_size=128, bf16=True)


def row(job: Job, targets: tuple[Target, ...]) -> dict[str, Any]:
    """Trains towards some targets; what was reached."""
    model, guide = job.build(gated=True)
    asked, start = job.options, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True):
        result = fit(
            model,
            guide,
            job.batches(job.data.train, asked.batch_size, shuffle=True),
            checkpoint=Path(folder) / "run.checkpoint",
            target=targets,
            progress=False,
            options=asked.fit_options(gated=True),
        )
    return {
        "asked": [str(target) for target in targets],
        "reached": [round(share, 4) for share in result.reached.values()],
        "relative_error": [round(share / target.share - 1, 4) for target, share in result.reached.items()],
        "test_error": evaluate(model, guide, job.batches(job.data.test)),
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Asked and reached, as Markdown."""
    lines = ["| asked | reached | off by | test error | seconds |", "|---" * 5 + "|"]
    for it in rows:
        reached = ", ".join(f"{share:.3g}" for share in it["reached"])
        off = ", ".join(f"{error:+.1%}" for error in it["relative_error"])
        lines.append(f"| {', '.join(it['asked'])} | {reached} | {off} | {it['test_error']:.2%} | {it['seconds']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Trains towards each target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=TARGETS, default="lenet5")
    parser.add_argument("--data", choices=("mnist", "cifar10", "folder"), default="mnist")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--download", action="store_true", help="fetch what is missing there")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.download:
        load_data(asked.data, asked.data_dir, download=True)
    job = Job(options(asked.network, asked))
    rows = [row(job, targets) for targets in TARGETS[asked.network]]
    record(f"targets_{asked.network}", asked.seed, {"epochs": asked.epochs, "rows": rows}, table(rows))


if __name__ == "__main__":
    main()
