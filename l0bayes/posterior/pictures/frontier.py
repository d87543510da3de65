"""The frontier of finished networks: error against what they cost."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from l0bayes.posterior.pictures.style import GREY, SERIES, axes_for, plain

# Where a label may stand beside its point, in points, the best place first.
_PLACES = ((6, 4), (6, -10), (-6, 4), (-6, -10), (0, 9), (0, -15), (14, 14), (14, -20), (-14, 14), (-14, -20))

_ALIKE = 1.6  # times the least cost: seeds, and not several settings under one name


def plot_frontier(
    runs: pd.DataFrame,
    x: str = "parameters",
    ax: Axes | None = None,
    *,
    references: pd.DataFrame | None = None,
    colours: Mapping[str, str] | None = None,
    legend: bool = True,
) -> Axes:
    """Error against size, or any other cost, of several finished networks.

    Args:
        runs: a row a network, with columns ``name`` (rows of one name share a colour, such as seeds), ``error`` and
            ``x``. A bar spans the errors of a name whose networks cost about the same.
        x: the column to draw the error against, on a logarithmic axis.
        ax: where to draw; a new figure if ``None``.
        references: networks to compare with, with the same columns; each is labelled with its name.
        colours: name to colour; give the same to all panels of a figure.
        legend: whether to say which colour is what.

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
    colours = colours or {}
    for number, (name, rows) in enumerate(runs.groupby("name", sort=False)):
        colour = colours.get(str(name), SERIES[number % len(SERIES)])
        errors = 100 * rows["error"]
        ax.scatter(rows[x], errors, s=22, label=str(name), alpha=0.8, color=colour)
        if len(rows) > 1 and rows[x].max() < _ALIKE * rows[x].min():
            ax.vlines(rows[x].mean(), errors.min(), errors.max(), color=colour, linewidth=1)
    ax.scatter(references[x], 100 * references["error"], s=34, marker="D", facecolors="none", edgecolors=GREY)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", labelsize=8)
    ax.set(xlabel=x, ylabel="test error, %")
    plain(ax)
    if legend:
        ax.legend(fontsize=7, frameon=False)
    _label(ax, references, runs, x)
    return ax


def _label(ax: Axes, references: pd.DataFrame, runs: pd.DataFrame, x: str) -> None:
    """Names beside the references, where they cover neither one another nor a point."""
    points = pd.concat([runs[[x, "error"]], references[[x, "error"]]])
    places = ax.transData.transform([(row[x], 100 * row["error"]) for _, row in points.iterrows()])
    taken = [Bbox.from_bounds(left - 4, low - 4, 8, 8) for left, low in places]
    for _, row in references.iterrows():
        text = ax.annotate(
            str(row["name"]),
            (row[x], 100 * row["error"]),
            _PLACES[0],
            textcoords="offset points",
            fontsize=7,
            color=GREY,
        )
        for place in _PLACES:
            text.set_position(place)
            text.set_horizontalalignment("left" if place[0] > 0 else "right" if place[0] < 0 else "center")
            if not Bbox.count_overlaps(text.get_window_extent(), taken):
                break
        taken.append(text.get_window_extent())
