"""Pictures of inclusion probabilities: several estimates of them, side by side and against each other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from l0bayes.posterior.pictures.style import CLOSED, GREY, OPEN, SERIES, axes_for, plain


def plot_inclusion(
    estimates: Mapping[str, Any], names: Sequence[str] | None = None, ax: Axes | None = None, *, threshold: float = 0.5
) -> Axes:
    """Inclusion probabilities of each predictor, by one or several methods.

    Args:
        estimates: method to its probabilities, of shape ``(p,)``, in one order; the first, such as the exact
            ones, has the bars, the others dots.
        names: of the predictors; numbers if ``None``.
        ax: where to draw; a new figure if ``None``.
        threshold: where to draw a line: the median probability model is above 0.5.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if there are no estimates, their shapes differ, or they are not in [0, 1].
    """
    values = _checked(estimates, 1)
    size = len(next(iter(values.values())))
    labels = [str(j) for j in range(size)] if names is None else [str(name) for name in names]
    if len(labels) != size:
        raise ValueError(f"names: {len(labels)} for {size} probabilities")
    ax = axes_for(ax)
    position = np.arange(size)
    for number, (method, probs) in enumerate(values.items()):
        if number == 0:
            ax.bar(position, probs, width=0.7, color=CLOSED, label=method)
            continue
        shift = 0.12 * (number - len(values) / 2)
        ax.plot(position + shift, probs, "o", color=SERIES[(number - 1) % len(SERIES)], markersize=5, label=method)
    ax.axhline(threshold, color=GREY, linewidth=0.8, linestyle=":")
    turned = max(map(len, labels)) > 4 and size > 6  # noqa: PLR2004 (where they would run into each other)
    ax.set_xticks(position, labels, rotation=90 if turned else 0)
    ax.set(ylim=(0, 1.02), xlim=(-0.6, size - 0.4), ylabel="P(included)")
    plain(ax)
    ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return ax


def plot_inclusion_agreement(
    first: Any, second: Any, ax: Axes | None = None, *, labels: tuple[str, str] = ("first", "second")
) -> Axes:
    """One estimate of inclusion probabilities against another, with the line on which they agree.

    Args:
        first: probabilities, of shape ``(p,)``.
        second: inclusion probabilities by another method, in the same order.
        ax: where to draw; a new figure if ``None``.
        labels: names of the two.

    Returns:
        The axes drawn on.

    Raises:
        ValueError: if shapes differ, or they are not in [0, 1].
    """
    values = list(_checked(dict(enumerate((first, second))), 2).values())
    ax = axes_for(ax)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    ax.plot(*values, "o", color=OPEN, markersize=5, alpha=0.8)
    worst = int(np.abs(values[0] - values[1]).argmax())
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=labels[0], ylabel=labels[1])
    ax.set_title(f"largest difference {abs(values[0] - values[1])[worst]:.2f}", loc="left", fontsize=10)
    plain(ax)
    return ax


def _checked(estimates: Mapping[Any, Any], least: int) -> dict[str, np.ndarray]:
    values = {str(name): np.asarray(probs, dtype=float) for name, probs in estimates.items()}
    shapes = {probs.shape for probs in values.values()}
    if len(values) < least or len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise ValueError(f"estimates must be vectors of one length; got shapes {sorted(shapes)}")
    for name, probs in values.items():
        if not ((probs >= 0) & (probs <= 1)).all():
            raise ValueError(f"estimates must be probabilities; {name!r} goes from {probs.min():g} to {probs.max():g}")
    return values
