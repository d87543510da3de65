"""Pictures of a run: the ELBO, the size, and what a step costs."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from l0bayes.posterior.pictures.style import OPEN, SECOND, axes_for


def plot_training(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The ELBO and, on a second axis, the expected number of open parameters, over epochs.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult`.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes of the ELBO.
    """
    ax = axes_for(ax)
    ax.plot(history["epoch"], -history["elbo"], color=OPEN)
    # The density of precise data may exceed 1, and the ELBO 0.
    ax.set_yscale("log" if (history["elbo"] < 0).all() else "linear")
    ax.set_xlabel("epoch")
    ax.set_ylabel("−ELBO, nats", color=OPEN)
    ax.spines[["top"]].set_visible(False)
    if "expected_l0" in history:
        second: Any = ax.twinx()
        second.plot(history["epoch"], history["expected_l0"], color=SECOND)
        second.set_ylim(bottom=0)
        second.set_ylabel("expected L0, parameters", color=SECOND)
        second.spines[["top"]].set_visible(False)
    ax.set_title("training", loc="left", fontsize=10)
    return ax


def plot_training_cost(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Expected multiply-accumulates and the measured time of a training step, over epochs.

    The paper's figure 4 shows the first; both falling together is what running subnetworks is for.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult` of a network with gates.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes of the multiply-accumulates.
    """
    ax = axes_for(ax)
    ax.plot(history["epoch"], history["expected_macs"], color=OPEN)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("expected MACs", color=OPEN)
    ax.spines[["top"]].set_visible(False)
    second: Any = ax.twinx()
    second.plot(history["epoch"], 1e3 * history["seconds"] / history["steps"], color=SECOND)
    second.set_ylim(bottom=0)
    second.set_ylabel("measured step, ms", color=SECOND)
    second.spines[["top"]].set_visible(False)
    ax.set_title("cost of training", loc="left", fontsize=10)
    return ax


def training_figure(history: pd.DataFrame) -> Figure:
    """:func:`plot_training`, and beside it :func:`plot_training_cost` if the network has gates.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult`.

    Returns:
        A figure.
    """
    gated = "expected_macs" in history
    figure = Figure(figsize=(11 if gated else 6, 3.4), layout="constrained")
    axes = figure.subplots(1, 2 if gated else 1, squeeze=False)[0]
    plot_training(history, axes[0])
    if gated:
        plot_training_cost(history, axes[1])
    return figure
