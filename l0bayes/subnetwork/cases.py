"""What a trial of a structure tries: gates of which telling ones are closed, and how the network is run."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def early_closed(size: int) -> Tensor:
    """Gates of which a third is closed, irregularly and mostly early ones: equal parts would not lose equally many."""
    generator = torch.Generator().manual_seed(size)
    order = torch.rand(size, generator=generator, dtype=torch.float64) + 2 * torch.arange(size) / size
    values = 0.25 + 0.5 * torch.rand(size, generator=generator, dtype=torch.float64)
    values[order.argsort()[: max(size // 3, min(size - 1, 1))]] = 0.0
    return values


def late_closed(size: int) -> Tensor:
    """The other way round: what depends on the order of features shows in one of the two."""
    return early_closed(size).flip(0)


def one_open(size: int) -> Tensor:
    """A single gate, in the middle: a dimension of size 1 may be taken for none."""
    values = torch.zeros(size, dtype=torch.float64)
    values[size // 2] = 0.5
    return values


@dataclass(frozen=True)
class Case:
    """Some gates, in evaluation or training mode, for a run or for the compacted network; with gradients or without.

    ``course`` is the number of one of the network's other courses, 0 for that of the example.
    """

    gates: Callable[[int], Tensor]
    training: bool = False
    compacted: bool = False
    gradients: bool = False
    course: int = 0


@dataclass(frozen=True)
class Difference:
    """How a subnetwork differs from the masked network.

    Attributes:
        reason: in words.
        of_numbers: whether both run and give other numbers, as may also come of chance.
    """

    reason: str
    of_numbers: bool
