"""The most probable sets of gates as an image, as R's BAS draws them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from l0bayes.posterior.pictures.style import OPEN, axes_for, plain


def plot_model_space(models: pd.DataFrame, names: Sequence[str], ax: Axes | None = None) -> Axes:
    """Which gates are open in the most probable sets: a column a set, as wide as it is probable.

    Args:
        models: a row a set, the most probable first: ``predictors``, names of the open gates, and ``probability``.
        names: of the gates to show, from above to below.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no sets or no names.
    """
    if models.empty or not len(names):
        raise ValueError(f"models and names must not be empty; got {len(models)} and {len(names)}")
    ax = axes_for(ax)
    edges = np.append(0.0, models["probability"].cumsum())
    inside = np.array([[name in predictors for predictors in models["predictors"]] for name in names], dtype=float)
    ax.pcolormesh(edges, np.arange(len(names) + 1), np.where(inside, 1.0, np.nan), cmap=ListedColormap([OPEN]))
    ax.vlines(edges[1:-1], 0, len(names), color="white", linewidth=0.5)
    ax.set_yticks(np.arange(len(names)) + 0.5, list(map(str, names)), fontsize=8)
    ax.set(ylim=(len(names), 0), xlim=(0, edges[-1]), xlabel="probability of the sets, added up")
    plain(ax)
    return ax
