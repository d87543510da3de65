"""Mini-batches of data that live in memory."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from l0bayes.checks import check_inputs
from l0bayes.errors import DataError


class TensorBatches:
    """Mini-batches of tensors held in memory; iterate once an epoch.

    A shuffled epoch draws its order from torch's global random state when iteration starts, so a checkpoint that
    holds that state reproduces it.

    Args:
        x: inputs, of shape ``(rows, …)``.
        y: targets, of shape ``(rows, …)``.
        batch_size: rows a batch, at least 1; the last batch may be smaller.
        shuffle: whether every epoch has an order of its own.

    Raises:
        DataError: if the data are empty, not finite, or of different lengths.
        ValueError: if ``batch_size`` is not positive.
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, *, shuffle: bool = False) -> None:
        check_inputs(x)
        if len(x) != len(y):
            raise DataError(f"x and y must have as many rows; got {len(x)} and {len(y)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x)) if self.shuffle else torch.arange(len(self.x))
        for index in order.to(self.x.device).split(self.batch_size):
            yield self.x[index], self.y[index]
