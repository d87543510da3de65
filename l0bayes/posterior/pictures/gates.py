"""Pictures of gates: sorted probabilities, and gates on pixels."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from l0bayes.posterior.pictures.style import CLOSED, OPEN, axes_for, plain

_COLUMNS = 3  # of panels at most; more would not be readable on a page


def _rows(table: pd.DataFrame, site: str) -> pd.DataFrame:
    rows = table[table["site"] == site]
    if rows.empty:
        raise ValueError(f"site must be one of the table's, {sorted(table['site'].unique())}; got {site!r}")
    return rows


def plot_gate_probabilities(table: pd.DataFrame, site: str, ax: Axes | None = None) -> Axes:
    """P(z ≠ 0) of the gates of one site, sorted; those that are open in the finished network in blue, others in grey.

    Args:
        table: from :func:`~l0bayes.gate_table`.
        site: the site to draw.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.
    """
    rows = _rows(table, site).sort_values("p_nonzero", ascending=False)
    ax = axes_for(ax)
    position = np.arange(len(rows))
    colours = np.where(rows["open"], OPEN, CLOSED)
    ax.bar(position, rows["p_nonzero"], width=1.0, color=list(colours))
    ax.set(xlim=(-0.5, len(rows) - 0.5), ylim=(0, 1), xlabel="gates, sorted", ylabel="P(z ≠ 0)")
    ax.set_title(f"{site}: {int(rows['open'].sum())} of {len(rows)} open", loc="left", fontsize=10)
    plain(ax)
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
    ax = axes_for(ax)
    image = ax.imshow(rows["p_nonzero"].to_numpy().reshape(shape), cmap="viridis", vmin=0, vmax=1)
    y, x = np.nonzero(~rows["open"].to_numpy().reshape(shape))
    size = 200 / max(shape)
    ax.scatter(x, y, marker="x", s=size, c="white", alpha=0.6, linewidths=0.8)
    ax.set(xticks=[], yticks=[])
    ax.set_title(f"{site}: P(z ≠ 0) of each pixel, × closed", loc="left", fontsize=10)
    if colorbar:
        ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    return ax


def gates_figure(table: pd.DataFrame, image_site: str | None, image_shape: tuple[int, int] | None) -> Figure:
    """All sites in one figure, which says what its colours are; the gates on the pixels, if any, as an image.

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
    rows = -(-panels // _COLUMNS)
    columns = -(-panels // rows)
    figure = Figure(figsize=(3.6 * columns, 2.9 * rows + 0.3), layout="constrained")  # no pyplot: nothing to close
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in axes[panels:]:
        unused.remove()
    remaining = list(axes[:panels])
    if has_image and image_site is not None and image_shape is not None:
        plot_gate_image(table, image_site, image_shape, remaining.pop(0))
    for site in sites:
        plot_gate_probabilities(table, site, remaining.pop(0))
    said = {OPEN: "open in the finished network", CLOSED: "closed"}
    handles = [Patch(color=colour, label=label) for colour, label in said.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    return figure
