"""Mini-batches of data that live in memory."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l0bayes.arguments import checked
from l0bayes.compat import tree_map_tensors
from l0bayes.errors import DataError
from l0bayes.inputs import Inputs


class TensorBatches:
    """Mini-batches of tensors held in memory; iterate once an epoch.

    A shuffled epoch draws its order from torch's global random state when iteration starts, so a checkpoint that
    holds that state reproduces it.

    Args:
        x: inputs, of shape ``(rows, …)``; a mapping of keyword inputs for a network that takes several.
        y: targets, of shape ``(rows, …)``.
        batch_size: rows a batch, at least 1; the last batch may be smaller.
        shuffle: whether every epoch has an order of its own.
        augment: what is done to the inputs of each batch, such as
            :func:`~l0bayes.inference.data.augment.shifted`; it draws from torch's global random state too.
        shard: number of this process and how many there are; each gets an equal part of every batch, if all draw the
            same order. What the last batch of an epoch has too much to be shared equally is left out.

    Raises:
        DataError: if the data are empty, not finite, or of different lengths.
        ValueError: if ``batch_size`` is not positive, or cannot be shared equally.
    """

    @checked
    def __init__(
        self,
        x: Tensor | Mapping[str, Tensor],
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: Callable[[Any], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        inputs = Inputs.of(x)
        inputs.check("x")
        for own, value in inputs.by_name.items():
            if len(value) != len(y):
                what = f"x[{own}]" if own else "x"
                raise DataError(f"{what} and y must have as many rows; got {len(value)} and {len(y)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        rank, size = shard
        if not 0 <= rank < size or batch_size % size:
            raise ValueError(f"batch_size={batch_size} must be a multiple of the {size} processes of shard={shard}")
        self.shard = shard
        self.x, self.y = x, y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.augment = augment

    def __len__(self) -> int:
        last = len(self.y) % self.batch_size // self.shard[1]
        return len(self.y) // self.batch_size + (last > 0)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        order = torch.randperm(len(self.y)) if self.shuffle else torch.arange(len(self.y))
        rank, size = self.shard
        for batch in order.to(self.y.device).split(self.batch_size):
            rows = len(batch) // size
            if rows:
                index = batch[rank * rows : (rank + 1) * rows]
                x = tree_map_tensors(partial(_rows, index), self.x)
                yield x if self.augment is None else self.augment(x), self.y[index]


def _rows(index: Tensor, values: Tensor) -> Tensor:
    return values[index]
