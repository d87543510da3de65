"""The frontier of finished networks: error against what they cost."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from l0bayes.posterior.pictures.style import axes_for, plain


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
    ax = axes_for(ax)
    for name, rows in runs.groupby("name", sort=False):
        ax.scatter(rows[x], 100 * rows["error"], s=22, label=str(name), alpha=0.8)
    ax.scatter(references[x], 100 * references["error"], s=34, marker="D", facecolors="none", edgecolors="#555555")
    for _, row in references.iterrows():
        place = (row[x], 100 * row["error"])
        ax.annotate(str(row["name"]), place, (5, 4), textcoords="offset points", fontsize=7, color="#555555")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", labelsize=8)
    ax.set(xlabel=x, ylabel="test error, %")
    plain(ax)
    ax.legend(fontsize=7, frameon=False)
    return ax
