"""The paper's Table 1 and how to predict, from ``benchmarks/results/mnist``."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from tables.reading import RESULTS, results, share, table

Runs = list[dict[str, Any]]

# configuration to what it is called, in the order of the table
NAMES = {
    "lenet5": "LeNet-5",
    "lenet5-small": "LeNet-5, smaller",
    "lenet5-lambda-code_cost=0.03": "LeNet-5, λ = 0.03 nat for every parameter",
    "lenet5-lambda-code_cost=0.1": "LeNet-5, λ = 0.1",
    "lenet5-lambda-code_cost=0.5": "LeNet-5, λ = 0.5",
    "paper-lenet5": "LeNet-5, the paper's settings",
    "paper-lenet5-sep": "LeNet-5, λ by layer",
    "dropout-lenet5": "LeNet-5, dropout 0.5, not shifted",
    "mlp": "MLP 784-300-100",
    "mlp-small": "MLP, smaller",
    "paper-mlp": "MLP, the paper's settings",
    "paper-mlp-sep": "MLP, λ by layer",
    "full-mlp": "MLP, the full posterior",
    "dropout-mlp": "MLP, dropout 0.5, not shifted",
}


def runs(name: str) -> Runs:
    """All seeds of a configuration."""
    paths = sorted((RESULTS / "mnist").glob(f"{name}-[0-9].json"))
    return [results(f"mnist/{path.stem}") for path in paths]


def _error(run: dict[str, Any], name: str) -> str:
    return f"{run['test_error'][name]:.2%}" if name in run["test_error"] else ""


def _table() -> str:
    rows = []
    for name, title in NAMES.items():
        own = runs(name)
        for seed, run in enumerate(own):
            rows.append(
                [
                    f"{title}, seed {seed}" if len(own) > 1 else title,
                    _error(run, "compacted"),
                    _error(run, "dense"),
                    _sizes(run),
                    _kept(run),
                    share(run["macs"]) if "compacted" in run["test_error"] else "",
                ]
            )
        if len(own) > 1:
            rows.append(["**mean**", *(_mean(own, which) for which in ("compacted", "dense")), "", "", ""])
    return table(["", "test error", "dense", "inputs of the layers", "parameters", "MACs"], rows)


def _kept(run: dict[str, Any]) -> str:
    left = run["parameters"]
    return f"{left['after']:,} ({share(left, 2)})" if "before" in left else f"{left['after']:,}"


def _sizes(run: dict[str, Any]) -> str:
    if "architecture" in run:
        return str(run["architecture"]["after"])
    full = "mlp" if run["options"]["network"] == "mlp" else "lenet5"  # of one without gates, which stays as it was
    return str(runs(full)[0]["architecture"]["before"])


def _mean(own: Runs, which: str) -> str:
    errors = [run["test_error"][which] for run in own if which in run["test_error"]]
    return f"**{statistics.mean(errors):.2%}**" if errors else ""


_SCORED = {"lenet5": "LeNet-5", "paper-mlp": "MLP, the paper's settings", "full-mlp": "MLP, the full posterior"}


def _scores() -> str:
    rows = []
    for name, title in _SCORED.items():
        own = runs(name)
        for kind in dict.fromkeys(kind for run in own for kind in run["scores"]):
            scores = [run["scores"][kind] for run in own if kind in run["scores"]]
            error, nll, ece = (statistics.mean(one[what] for one in scores) for what in ("error", "nll", "ece"))
            rows.append([title, kind.replace("_", " "), f"{error:.2%}", f"{nll:.4f}", f"{ece:.4f}"])
    return table(["", "prediction", "error", "NLL, nats", "ECE"], rows)


def _architecture(name: str) -> str:
    (run,) = runs(name)
    return f"{run['architecture']['after']} at {run['test_error']['compacted']:.2%}"


def _time() -> str:
    seconds = runs("lenet5")[0]["seconds"]
    return f"{seconds['gated'] / seconds['dense']:.2f}"


_ARCHITECTURES = ("paper-lenet5", "paper-lenet5-sep", "paper-mlp", "paper-mlp-sep", "full-mlp")

PLACES: dict[str, Callable[[], str]] = {
    "mnist": _table,
    "mnist-scores": _scores,
    "mnist-time": _time,
    **{f"mnist-{name}": partial(_architecture, name) for name in _ARCHITECTURES},
}
