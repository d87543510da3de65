"""Gauss-Legendre quadrature over the inside of a hard concrete gate.

With ``x = γ + (ζ − γ)·sigmoid(ℓ)`` the interval (0, 1) becomes ``ℓ ∈ [log(−γ/ζ), log((1−γ)/(ζ−1))]``. There the
density of a hard concrete variable is analytic, its nearest singularity being at distance ``π/max(β, 1)`` from
the real line, so panels of a few such distances converge geometrically. The rule is exact to rounding for every
temperature and stretch a float64 can represent sensibly, and autograd differentiates it, end points included.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

_ORDER = 20
_PANEL_HALF_WIDTH = 2.0  # in units of the distance to the nearest singularity over π
_MAX_PANELS = 2048


@functools.cache
def _unit_rule(panels: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the composite rule on [0, 1], float64, each of shape ``(panels * order,)``."""
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    edges = np.arange(panels)[:, None]
    return (
        torch.from_numpy(((edges + (nodes + 1) / 2) / panels).ravel()),
        torch.from_numpy(np.tile(weights / (2 * panels), panels)),
    )


def inside_rule(beta: Tensor, gamma: Tensor, zeta: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and their weights, for integrands that vary no faster than a hard concrete density.

    Args:
        beta: temperature; of several distributions the largest one.
        gamma: lower stretch, < 0; of several the one nearest to 0.
        zeta: upper stretch, > 1; of several the one nearest to 1.

    Returns:
        Nodes and weights of shape ``(n, *broadcast shape)``, such that ``(weights * f(nodes)).sum(0)``
        approximates the integral of ``f`` over (0, 1). Differentiable in ``gamma`` and ``zeta``.

    Raises:
        ValueError: if a temperature is so high (about 1700 at the default stretch) that the rule would be huge.
    """
    low = (-gamma / zeta).log()
    span = ((1 - gamma) / (zeta - 1)).log() - low
    width = (span * beta.clamp(min=1.0)).detach()
    steepness = float(width.amax()) if width.numel() else 0.0
    panels = max(1, math.ceil(steepness / (2 * _PANEL_HALF_WIDTH)))
    if panels > _MAX_PANELS:
        raise ValueError(
            f"beta, gamma and zeta need {panels} quadrature panels, more than {_MAX_PANELS}; got beta up to "
            f"{float(beta.amax()):g}. Use a lower temperature; the paper uses 2/3"
        )
    unit, weights = (t.to(span).reshape(-1, *(1,) * span.dim()) for t in _unit_rule(panels))
    share = torch.sigmoid(low + span * unit)
    return gamma + (zeta - gamma) * share, weights * span * (zeta - gamma) * share * (1 - share)
