"""Pictures of gates and of training. Each takes an ``ax`` and returns it."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_OPEN, _CLOSED, _SECOND = "#1b6ca8", "#c9ced6", "#d1495b"


def _rows(table: pd.DataFrame, site: str) -> pd.DataFrame:
    rows = table[table["site"] == site]
    if rows.empty:
        raise ValueError(f"site must be one of the table's, {sorted(table['site'].unique())}; got {site!r}")
    return rows


def plot_gate_probabilities(table: pd.DataFrame, site: str, ax: Axes | None = None) -> Axes:
    """P(z ≠ 0) of the gates of one site, sorted; open gates in colour.

    Args:
        table: from :func:`~l0bayes.gate_table`.
        site: the site to draw.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.
    """
    rows = _rows(table, site).sort_values("p_nonzero", ascending=False)
    ax = plt.subplots()[1] if ax is None else ax
    position = np.arange(len(rows))
    colours = np.where(rows["open"], _OPEN, _CLOSED)
    ax.bar(position, rows["p_nonzero"], width=1.0, color=list(colours))
    ax.set(xlim=(-0.5, len(rows) - 0.5), ylim=(0, 1), xlabel="gate, sorted", ylabel="P(z ≠ 0)")
    ax.set_title(f"{site}: {int(rows['open'].sum())} of {len(rows)} open", loc="left", fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_gate_image(
    table: pd.DataFrame, site: str, shape: tuple[int, int], ax: Axes | None = None, *, colorbar: bool = True
) -> Axes:
    """P(z ≠ 0) of the gates on an image's pixels, drawn as the image; closed pixels are crossed out.

    Args:
        table: from :func:`~l0bayes.gate_table`.
        site: a site with as many gates as the image has pixels.
        shape: height and width.
        ax: where to draw; a new figure if ``None``.
        colorbar: whether to draw a scale beside it.

    Returns:
        The axes drawn on.
    """
    rows = _rows(table, site).sort_values("index")
    ax = plt.subplots()[1] if ax is None else ax
    image = ax.imshow(rows["p_nonzero"].to_numpy().reshape(shape), cmap="viridis", vmin=0, vmax=1)
    y, x = np.nonzero(~rows["open"].to_numpy().reshape(shape))
    size = 200 / max(shape)
    ax.scatter(x, y, marker="x", s=size, c="white", alpha=0.6, linewidths=0.8)
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{site}: P(z ≠ 0), × closed", loc="left", fontsize=10)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    return ax


def plot_training(history: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The ELBO and, on a second axis, the expected number of open parameters, over epochs.

    Args:
        history: of a :class:`~l0bayes.inference.FitResult`.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes of the ELBO.
    """
    ax = plt.subplots()[1] if ax is None else ax
    ax.plot(history["epoch"], -history["elbo"], color=_OPEN)
    # The density of precise data may exceed 1, and the ELBO 0.
    ax.set_yscale("log" if (history["elbo"] < 0).all() else "linear")
    ax.set_xlabel("epoch")
    ax.set_ylabel("−ELBO, nats", color=_OPEN)
    ax.spines[["top"]].set_visible(False)
    if "expected_l0" in history:
        second: Any = ax.twinx()
        second.plot(history["epoch"], history["expected_l0"], color=_SECOND)
        second.set_ylim(bottom=0)
        second.set_ylabel("expected L0, parameters", color=_SECOND)
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
    ax = plt.subplots()[1] if ax is None else ax
    ax.plot(history["epoch"], history["expected_macs"], color=_OPEN)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("epoch")
    ax.set_ylabel("expected MACs", color=_OPEN)
    ax.spines[["top"]].set_visible(False)
    second: Any = ax.twinx()
    second.plot(history["epoch"], 1e3 * history["seconds"] / history["steps"], color=_SECOND)
    second.set_ylim(bottom=0)
    second.set_ylabel("measured step, ms", color=_SECOND)
    second.spines[["top"]].set_visible(False)
    ax.set_title("cost of training", loc="left", fontsize=10)
    return ax


def plot_frontier(
    runs: pd.DataFrame, x: str = "parameters", ax: Axes | None = None, *, references: pd.DataFrame | None = None
) -> Axes:
    """Error against size, or any other cost, of several finished networks.

    Args:
        runs: a row a network, with columns ``name`` (rows of one name share a colour), ``error`` and ``x``.
        x: the column to draw the error against, on a logarithmic axis.
        ax: where to draw; a new figure if ``None``.
        references: networks to compare with, with the same columns; each is labelled with its name.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if a column is missing.
    """
    references = pd.DataFrame(columns=["name", "error", x]) if references is None else references
    for what, table in (("runs", runs), ("references", references)):
        if missing := {"name", "error", x} - set(table.columns):
            raise ValueError(f"{what} must have columns name, error and {x}; {', '.join(sorted(missing))} is missing")
    ax = plt.subplots()[1] if ax is None else ax
    for name, rows in runs.groupby("name", sort=False):
        ax.scatter(rows[x], 100 * rows["error"], s=22, label=str(name), alpha=0.8)
    ax.scatter(references[x], 100 * references["error"], s=34, marker="D", facecolors="none", edgecolors="#555555")
    for _, row in references.iterrows():
        place = (row[x], 100 * row["error"])
        ax.annotate(str(row["name"]), place, (5, 4), textcoords="offset points", fontsize=7, color="#555555")
    ax.set_xscale("log")
    ax.set(xlabel=x, ylabel="test error, %")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=7, frameon=False)
    return ax


def gates_figure(table: pd.DataFrame, image_site: str | None, image_shape: tuple[int, int] | None) -> Figure:
    """All sites in one figure; the gates on the pixels, if there are any, as an image.

    Args:
        table: from :func:`~l0bayes.gate_table`.
        image_site: site of the gates on the pixels.
        image_shape: height and width of the image.

    Returns:
        A figure.
    """
    sites = list(table["site"].unique())
    has_image = image_site in sites and image_shape is not None
    panels = len(sites) + (1 if has_image else 0)
    figure = Figure(figsize=(3.6 * panels, 3.2), layout="constrained")  # no pyplot: no window, nothing to close
    axes = figure.subplots(1, panels, squeeze=False, gridspec_kw={"wspace": 0.08})
    remaining = list(axes[0])
    if has_image and image_site is not None and image_shape is not None:
        plot_gate_image(table, image_site, image_shape, remaining.pop(0))
    for site in sites:
        plot_gate_probabilities(table, site, remaining.pop(0))
    return figure


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
