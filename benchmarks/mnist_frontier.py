"""The frontier on MNIST: test error against parameters, and against training time, of all runs in ``results/mnist/``.

Reference points are the architectures and errors that were published; their parameters are those of a compacted
network of that architecture, biases included. ``mnist.py --configs lenet5-lambda --set code_cost=…`` adds points.
"""

import argparse
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mnist_table import stored

from l0bayes.posterior.pictures import plot_frontier

REFERENCES: dict[str, dict[str, float]] = {
    "mlp": {"219-214-100": 0.014, "266-88-33": 0.018, "408-100-69": 0.0148, "97-71-33": 0.016},
    "lenet5": {"20-25-45-462": 0.009, "9-18-65-25": 0.010},
}
_KERNEL = 25
# configuration, without the network that it is of, to what it is called and its colour, in all panels
_KINDS = {
    "dense": ("dense", "#333333"),
    "dropout": ("dense, dropout 0.5", "#8a8a8a"),
    "": ("targets", "#e6550d"),
    "small": ("targets, smaller", "#f2a25c"),
    "lambda": ("one λ for all", "#1b6ca8"),
    "paper": ("the paper's settings", "#66a182"),
    "paper-sep": ("the paper's, λ by layer", "#8d5a97"),
    "full": ("the full posterior", "#d1495b"),
}


def parameters(network: str, architecture: str) -> int:
    """Of a compacted network: weights and biases."""
    sizes = [int(size) for size in architecture.split("-")]
    if network == "mlp":
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise([*sizes, 10]))
    first, second, inputs, hidden = sizes
    convolutions = (_KERNEL + 1) * first + (_KERNEL * first + 1) * second
    return convolutions + (inputs + 1) * hidden + (hidden + 1) * 10


def references(network: str) -> pd.DataFrame:
    """What was published: the paper's two architectures, and those that others reached."""
    rows = [
        {"name": name, "error": error, "parameters": parameters(network, name)}
        for name, error in REFERENCES[network].items()
    ]
    return pd.DataFrame(rows)


def points(network: str) -> pd.DataFrame:
    """A row for each stored run of a network."""
    rows: list[dict[str, Any]] = []
    for name, runs in stored().items():
        for it in runs.values():
            kind = "compacted" if "compacted" in it["test_error"] else "dense"
            if it["options"]["network"] == network:
                words = name.partition("-code_cost")[0].split("-")
                short = _KINDS["-".join(word for word in words if word != network)][0]
                seconds = it["seconds"]["gated" if kind == "compacted" else "dense"]
                size = it["parameters"]["after"]
                rows.append({"name": short, "error": it["test_error"][kind], "parameters": size, "seconds": seconds})
                if kind == "compacted" and "dense" in it["test_error"]:
                    full, seconds = it["parameters"]["before"], it["seconds"]["dense"]
                    error = it["test_error"]["dense"]
                    rows.append({"name": _KINDS["dense"][0], "error": error, "parameters": full, "seconds": seconds})
    return pd.DataFrame(rows)


def main() -> None:
    """Draws a row of two pictures for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="docs/pictures/frontier.png")
    out = parser.parse_args().out
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    colours = dict(_KINDS.values())
    for (left, right), (network, title) in zip(axes, {"lenet5": "LeNet-5", "mlp": "MLP"}.items(), strict=True):
        runs = points(network)
        plot_frontier(runs, "parameters", left, references=references(network), colours=colours, legend=False)
        plot_frontier(runs, "seconds", right, colours=colours, legend=False)
        left.set_title(f"{title}: size", loc="left", fontsize=10)
        right.set_title(f"{title}: training time, one thread", loc="left", fontsize=10)
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], marker="D", linestyle="", color="#555555", markerfacecolor="none", label="published"))
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
