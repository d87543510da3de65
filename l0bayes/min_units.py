"""Gates of which each group keeps as many open as it must."""

from collections.abc import Mapping

import torch
from torch import Tensor

from l0bayes.distributions import HardConcrete


def open_at_least(
    opened: Mapping[str, Tensor], log_odds: Mapping[str, Tensor], least: Mapping[str, int]
) -> dict[str, Tensor]:
    """Which gates are open, the most probable ones of each group among them where there are too few.

    Args:
        opened: group name to which gates are open, ``(size,)`` booleans.
        log_odds: group name to what ranks them, such as the log-odds of P(z ≠ 0).
        least: group name to how many are open at least; groups that are left out keep what they have.

    Returns:
        Group name to which gates are open; where that is enough, the very tensors that were given.
    """
    kept = dict(opened)
    for name, number in least.items():
        if int(opened[name].sum()) < number:
            chosen = log_odds[name].topk(number).indices
            kept[name] = opened[name].index_fill(0, chosen, value=True)
    return kept


@torch.no_grad()
def held_open(
    points: Mapping[str, Tensor],
    gates: Mapping[str, HardConcrete],
    opened: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Test-time gates; those that have to be open, and are not by themselves, are open at their mean.

    Args:
        points: group name to test-time gates.
        gates: group name to their distributions.
        opened: group name to which of them are open.
        kept: group name to which have to be; the same tensors where nothing is to be changed.
    """
    held = dict(points)
    for name, keep in kept.items():
        if keep is not opened[name]:
            mean = gates[name].mean.clamp(min=torch.finfo(points[name].dtype).tiny)
            held[name] = torch.where(keep & ~opened[name], mean, points[name])
    return held
