"""What all pictures share: colours, and axes without a box."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OPEN, CLOSED, SECOND, THIRD, GREY = "#1b6ca8", "#c9ced6", "#d1495b", "#edae49", "#555555"
SERIES = (OPEN, SECOND, THIRD, "#66a182", "#8d5a97", GREY)


def axes_for(ax: Axes | None) -> Axes:
    """The axes given, or those of a new figure."""
    return plt.subplots()[1] if ax is None else ax


def plain(ax: Axes) -> None:
    """Takes the upper and the right line away."""
    ax.spines[["top", "right"]].set_visible(False)
