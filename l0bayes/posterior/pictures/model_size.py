"""The distribution of the size of a model: how many gates are open."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from l0bayes.posterior.pictures.style import SERIES, axes_for, plain

_UNLIKELY = 1e-4  # sizes at both ends that are not drawn


def plot_model_size(sizes: Any, ax: Axes | None = None) -> Axes:
    """Probabilities of 0, 1, 2, … open gates.

    Args:
        sizes: probabilities of each number, as from :func:`~l0bayes.posterior.model_size.size_distribution` or the
            ``sizes`` of an exact or a sampled posterior; or a mapping from names to several.
        ax: where to draw; a new figure if ``None``.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if they are no probabilities that sum to 1.
    """
    several = sizes if isinstance(sizes, Mapping) else {"": sizes}
    ax = axes_for(ax)
    low, high = np.inf, 0
    for number, (name, given) in enumerate(several.items()):
        probs = np.asarray(given, dtype=float)
        if probs.ndim != 1 or not (probs >= -1e-12).all() or abs(probs.sum() - 1) > 1e-6:  # noqa: PLR2004
            raise ValueError(f"sizes must be probabilities of 0, 1, 2, … that sum to 1; got a sum of {probs.sum():g}")
        seen = np.flatnonzero(probs > _UNLIKELY)
        low, high = min(low, seen[0]), max(high, seen[-1])
        colour = SERIES[number % len(SERIES)]
        ax.plot(np.arange(len(probs)), probs, "o-", color=colour, linewidth=1, markersize=4, label=str(name))
    ax.set(xlim=(low - 0.5, high + 0.5), xlabel="open gates", ylabel="probability")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(ax)
    if len(several) > 1:
        ax.legend(fontsize=8, frameon=False)
    return ax
