"""Wide ResNets on CIFAR, the paper's Table 2: error and MACs kept, and images per second of four kinds of steps.

The recipe is the paper's: SGD with Nesterov momentum, 200 epochs, the rate cut to a fifth at 30, 60 and 80 % of them,
weight decay 5e-4, images shifted by up to 4 pixels and mirrored. ``--gates paper`` gates the first convolution of each
block, ``--gates unit`` every convolution and all residual streams. ``--minutes`` ends a run early, with what was
reached by then; the same command resumes from the checkpoint. On a GPU:

    python benchmarks/cifar.py --depth 28 --width 10 --gates unit --target-macs 0.16 --device cuda --minutes 25
"""

import argparse
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from networks import synchronised
from recipes import WIDE_RESNET
from record import record
from scores import dense_scores, gated_scores
from torch import Tensor, nn

from l0bayes import compact
from l0bayes.find_sparse import find_sparse
from l0bayes.inference import ClosedFormKL_ELBO, HardConcreteGuide, save
from l0bayes.inference.command_line.job import Job
from l0bayes.inference.command_line.train import history_file, train_one
from l0bayes.inference.command_line.train_options import TrainOptions
from l0bayes.inference.data.datasets import Split
from l0bayes.inference.objective.loss import Objective
from l0bayes.inference.system.timing import interleaved
from l0bayes.models import Classifier
from l0bayes.posterior.cost import cost

_ROWS = 1000  # images a batch of the test part
Step = Callable[[], object]


@contextlib.contextmanager
def stopped_after(minutes: float | None) -> Iterator[None]:
    """Presses Ctrl-C after so many minutes, upon which ``fit`` writes its checkpoint."""

    def press(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 0 if minutes is None else 60 * minutes)
    try:
        yield
    except KeyboardInterrupt as stop:
        print(stop)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- images per second ------------------------------------------------------------------------------------------------


def _step(loss: Callable[[], Tensor], parameters: list[nn.Parameter]) -> Step:
    """Forward, backward, and an update that leaves everything where it is."""
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def speeds(job: Job, model: Classifier, guide: HardConcreteGuide, rounds: int) -> dict[str, Any]:
    """Images per second in each precision; bfloat16 kernels fill whole blocks of channels, however few there are."""
    precisions = {"bf16": True, "float32": False} if job.options.bf16 else {"float32": False}
    return {name: images_per_second(job, model, guide, rounds, bf16=bf16) for name, bf16 in precisions.items()}


def images_per_second(
    job: Job, model: Classifier, guide: HardConcreteGuide, rounds: int, *, bf16: bool
) -> dict[str, Any]:
    """Of training steps of the dense network and of the gated one, narrowed in three ways, at the guide's gates."""
    options = job.options
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    x, y = next(iter(job.batches(job.data.train, options.batch_size, shuffle=True)))
    x = x.contiguous(memory_format=layout)
    dense = job.build(gated=False)[0].child("net").to(memory_format=layout).train()
    model.to(memory_format=layout).train()
    narrowed: dict[str, dict[str, Any]] = {
        "masked": {"masked": True},
        "multiples of 8": {"round_to": 8},
        "subnetwork": {},
    }

    def dense_loss() -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            return F.cross_entropy(dense(x).float(), y)

    steps = {"dense": _step(dense_loss, list(dense.parameters()))}
    for name, how in narrowed.items():
        objective = Objective(ClosedFormKL_ELBO(), model, guide, bf16=bf16, **how)
        steps[name] = _step(partial(objective, x, y), list(objective.parameters()))
    timing = interleaved(synchronised(steps, options.device), rounds=rounds)
    return {
        "images_per_second": {name: round(len(x) / seconds, 1) for name, seconds in timing.seconds.items()},
        "ratio_to_dense": {name: round(ratio, 3) for name, ratio in timing.ratio.items()},
    }


# -- a run ------------------------------------------------------------------------------------------------------------


def history(out: Path, name: str) -> list[dict[str, float]]:
    """A row for each epoch done so far."""
    path = out / history_file(name)
    if not path.exists() or not path.read_text().strip():  # stopped in the first epoch
        return []
    rows: list[dict[str, float]] = pd.read_csv(path).round(5).to_dict("records")
    return rows


def gated_run(job: Job, out: Path, minutes: float | None, rounds: int) -> dict[str, Any]:
    """Trains with gates; what was reached, and how fast it was before and after."""
    model, guide = job.build(gated=True)
    example = job.data.test.x[:1].to(job.options.device)
    full = cost(find_sparse(model).child("net"), example)
    results: dict[str, Any] = {"speed_at_start": speeds(job, model, guide, rounds)}
    model, guide = job.build(gated=True)
    with stopped_after(minutes):
        train_one(job, "gated", model, guide, out)
    small = compact(model, guide)
    kept = cost(small, example)
    save(small, out / "compacted.safetensors")
    return results | {
        "parameters": {"before": full.parameters, "after": kept.parameters},
        "macs": {"before": full.macs, "after": kept.macs},
        "open_gates": {name: [int((z != 0).sum()), z.numel()] for name, z in guide.point().items()},
        "scores": gated_scores(model, guide, on_device(job), draws=8, batch_size=_ROWS),
        "history": history(out, "gated"),
        "speed_at_end": speeds(job, model, guide, rounds),
    }


def dense_run(job: Job, out: Path, minutes: float | None) -> dict[str, Any]:
    """Trains without gates."""
    model, guide = job.build(gated=False)
    with stopped_after(minutes):
        train_one(job, "dense", model, guide, out)
    scores = dense_scores(model.child("net"), on_device(job), batch_size=_ROWS)
    return {"scores": scores, "history": history(out, "dense")}


def on_device(job: Job) -> Split:
    """The test part where the networks are."""
    test = job.data.test
    return Split(test.x.to(job.options.device), test.y.to(job.options.device))


def main() -> None:
    """Trains and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("cifar10", "cifar100", "folder"), default="cifar10")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--label", help="name of the data and part of that of the result; default: that of --data")
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--depth", type=int, default=28)
    parser.add_argument("--width", type=int, default=10)
    parser.add_argument("--gates", choices=("paper", "unit"), default="paper")
    parser.add_argument("--code-cost", type=float, help="nats per parameter")
    parser.add_argument("--target-macs", type=float, help="share of the MACs to keep")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--gate-lr", type=float, default=1e-2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--float32", action="store_true", help="no bfloat16 autocast")
    parser.add_argument("--dense", action="store_true", help="train the dense network too")
    parser.add_argument("--minutes", type=float, help="at most so many for each network; call again to resume")
    parser.add_argument("--rounds", type=int, default=9, help="how often each kind of step is timed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="out/cifar", help="working folder, with checkpoints")
    asked = parser.parse_args()
    name = f"wrn-{asked.depth}-{asked.width}-{asked.gates}-{asked.label or asked.data}"
    price = f"cost={asked.code_cost}-macs={asked.target_macs}-epochs={asked.epochs}"
    out = Path(asked.out) / f"{name}-{price}-{asked.seed}"
    out.mkdir(parents=True, exist_ok=True)
    job = Job(_options(asked))
    results: dict[str, Any] = {"data": asked.label or asked.data, "epochs_asked": asked.epochs}
    results["gated"] = gated_run(job, out, asked.minutes, asked.rounds)
    if asked.dense:
        results["dense"] = dense_run(job, out, asked.minutes)
    record(f"cifar/{name}", asked.seed, results, table(results))


def _options(asked: argparse.Namespace) -> TrainOptions:
    """The recipe of the paper, with what was asked for."""
    passed = (
        "data",
        "data_dir",
        "download",
        "depth",
        "width",
        "gates",
        "epochs",
        "batch_size",
        "gate_lr",
        "device",
        "seed",
    )
    return TrainOptions(
        **{key: getattr(asked, key) for key in passed},
        **WIDE_RESNET,
        code_cost=asked.code_cost,
        target_macs=asked.target_macs,
        bf16=not asked.float32,
        selection="svi",
        progress=False,
    )


def table(results: dict[str, Any]) -> str:
    """What was reached, and images per second, as Markdown."""
    gated = results["gated"]
    lines = [
        "| training steps | dense, images / s | masked | multiples of 8 | subnetwork | subnetwork, time / dense |",
        "|---" * 6 + "|",
    ]
    for when in ("start", "end"):
        for precision, speed in gated[f"speed_at_{when}"].items():
            cells = " | ".join(f"{value:,.0f}" for value in speed["images_per_second"].values())
            lines.append(f"| {precision}, at the {when} | {cells} | {speed['ratio_to_dense']['subnetwork']:.2f} |")
    lines += ["", "| network | epochs | test error | NLL, nats | ECE | parameters | MACs |", "|---" * 7 + "|"]
    kinds = {f"gated, {kind.replace('_', ' ')}": scores for kind, scores in gated["scores"].items()}
    shares = {what: gated[what]["after"] / gated[what]["before"] for what in ("parameters", "macs")}
    for kind, scores in kinds.items():
        lines.append(_row(kind, gated, scores, f"{shares['parameters']:.1%} | {shares['macs']:.1%}"))
    if "dense" in results:
        lines.append(_row("dense", results["dense"], results["dense"]["scores"], "100 % | 100 %"))
    return "\n".join(lines)


def _row(name: str, run: dict[str, Any], scores: dict[str, float], kept: str) -> str:
    numbers = f"{scores['error']:.2%} | {scores['nll']:.3f} | {scores['ece']:.3f}"
    return f"| {name} | {len(run['history'])} | {numbers} | {kept} |"


if __name__ == "__main__":
    main()
