"""Pictures of a run: the ELBO, the size, and what a step costs; each has an axis of its own."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from l0bayes.posterior.pictures.style import GREY, OPEN, SECOND, axes_for, plain


def plot_training(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The negative ELBO over epochs; dotted lines are where a phase of the run ends.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult`.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.
    """
    ax = axes_for(ax)
    ax.plot(history["epoch"], -history["elbo"], color=OPEN)
    # The density of precise data may exceed 1, and the ELBO 0.
    ax.set_yscale("log" if (history["elbo"] < 0).all() else "linear")
    ax.set_ylabel("−ELBO, nats")
    _style(ax, history, "ELBO of all training data")
    return ax


def plot_training_size(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Gated parameters that are open, expected and in the test-time network, over epochs.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult` of a network with gates.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.
    """
    ax = axes_for(ax)
    ax.plot(history["epoch"], history["expected_l0"], color=OPEN, label="expected")
    if "open_l0" in history:
        ax.plot(history["epoch"], history["open_l0"], color=SECOND, linestyle="--", label="test-time gates")
        ax.legend(fontsize=8, frameon=False)
    ax.set_ylabel("open parameters")
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _style(ax, history, "size")
    return ax


def plot_training_cost(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Expected multiply-accumulates and the measured time of a step, both as shares of what they were at first.

    The paper's figure 4 shows the first; both falling together is what running subnetworks is for.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult` of a network with gates.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.
    """
    ax = axes_for(ax)
    step = history["seconds"] / history["steps"]
    macs = history["expected_macs"]
    ax.plot(history["epoch"], macs / macs.iloc[0], color=OPEN, label=f"expected MACs, from {macs.iloc[0]:,.0f}")
    label = f"measured step, from {1e3 * step.iloc[0]:,.3g} ms"
    ax.plot(history["epoch"], step / step.iloc[0], color=SECOND, label=label)
    ax.set_ylim(0, 1.3 * max((macs / macs.iloc[0]).max(), (step / step.iloc[0]).max()))  # room for the legend
    ax.set_ylabel("share of the first epoch's")
    ax.legend(fontsize=8, frameon=False, loc="upper left")
    _style(ax, history, "cost of a step")
    return ax


def training_figure(history: pd.DataFrame) -> Figure:
    """:func:`plot_training`; if the network has gates, :func:`plot_training_size` and :func:`plot_training_cost` too.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult`.

    Returns:
        A figure.
    """
    gated = "expected_macs" in history
    figure = Figure(figsize=(12 if gated else 5, 3.4), layout="constrained")
    axes = figure.subplots(1, 3 if gated else 1, squeeze=False)[0]
    plot_training(history, axes[0])
    if gated:
        plot_training_size(history, axes[1])
        plot_training_cost(history, axes[2])
    return figure


def _style(ax: Axes, history: pd.DataFrame, title: str) -> None:
    if "phase" in history:
        changed = history["phase"] != history["phase"].shift(1)
        for epoch in history["epoch"][changed].iloc[1:]:
            ax.axvline(epoch - 0.5, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_title(title, loc="left", fontsize=10)
    plain(ax)
