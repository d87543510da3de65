"""Agreement of seeds, priors or methods as a heat map."""

from typing import Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from l0bayes.posterior.pictures.style import axes_for

Measure = Literal["overlap", "agreement", "rank_correlation"]


def plot_agreement(
    pairs: pd.DataFrame, value: Measure = "overlap", ax: Axes | None = None, *, site: str = "all"
) -> Axes:
    """How far the gates of several guides agree, pair by pair.

    Args:
        pairs: from :func:`~l0bayes.gate_table` of several guides.
        value: its column to draw.
        ax: where to draw; a new figure if ``None``.
        site: the site to draw, or ``"all"``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if the column or the site is unknown.
    """
    if value not in get_args(Measure):
        raise ValueError(f"value must be one of {', '.join(get_args(Measure))}; got {value!r}")
    rows = pairs[pairs["site"] == site]
    if rows.empty:
        raise ValueError(f"site must be one of {', '.join(sorted(pairs['site'].unique()))}; got {site!r}")
    names = list(dict.fromkeys([*rows["first"], *rows["second"]]))
    matrix = np.eye(len(names))
    for row in rows.to_dict("records"):
        one, other = names.index(row["first"]), names.index(row["second"])
        matrix[one, other] = matrix[other, one] = row[value]
    ax = axes_for(ax)
    image = ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    for (one, other), number in np.ndenumerate(matrix):
        colour = "white" if number > 0.6 else "black"  # noqa: PLR2004 (readable on the blue)
        ax.text(other, one, f"{number:.2f}", ha="center", va="center", fontsize=8, color=colour)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set_title(f"{site}: {value.replace('_', ' ')}", loc="left", fontsize=10)
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.04)
    return ax
