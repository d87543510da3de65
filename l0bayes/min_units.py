"""Test-time gates of which each group keeps as many as it must."""

from collections.abc import Mapping

import torch
from torch import Tensor

from l0bayes.distributions import HardConcrete


@torch.no_grad()
def with_min_units(
    points: Mapping[str, Tensor], gates: Mapping[str, HardConcrete], least: Mapping[str, int]
) -> dict[str, Tensor]:
    """Test-time gates, opened where too few are open.

    Args:
        points: group name to test-time gates.
        gates: group name to their distributions.
        least: group name to how many are open at least; groups that are left out keep what they have.

    Returns:
        The same gates; where a group has too few that are open, its most probable ones are open at their mean.
    """
    held = dict(points)
    for name, number in least.items():
        point = points[name]
        if int((point != 0).sum()) < number:
            chosen = gates[name].prob_nonzero.topk(number).indices
            open_now = torch.zeros_like(point, dtype=torch.bool).index_fill(0, chosen, value=True) & (point == 0)
            held[name] = torch.where(open_now, gates[name].mean.clamp(min=torch.finfo(point.dtype).tiny), point)
    return held
