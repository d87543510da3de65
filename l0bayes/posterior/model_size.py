"""How many gates are open: the distribution of a model's size."""

from typing import Any

import numpy as np


def size_distribution(probs: Any) -> np.ndarray:
    """Distribution of the number of open gates, where each is open by itself (Poisson-binomial).

    Args:
        probs: P(open) of each gate, such as the column ``p_nonzero`` of :func:`~l0bayes.gate_table`; any shape.

    Returns:
        Probabilities of 0, 1, … n open gates, of shape ``(n + 1,)``, by convolution, in double precision.

    Raises:
        ValueError: if they are not in [0, 1].
    """
    values = np.asarray(probs, dtype=np.float64).ravel()
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"probs must be in [0, 1]; they go from {values.min():g} to {values.max():g}")
    sizes = np.ones(1)
    for prob in values:
        sizes = np.append(sizes * (1 - prob), 0.0) + np.append(0.0, sizes * prob)
    return sizes
