"""Mini-batches of data that live in memory."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from l0bayes.arguments import checked
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
        x: Tensor,
        y: Tensor,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        check_inputs(x)
        if len(x) != len(y):
            raise DataError(f"x and y must have as many rows; got {len(x)} and {len(y)}")
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
        last = len(self.x) % self.batch_size // self.shard[1]
        return len(self.x) // self.batch_size + (last > 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x)) if self.shuffle else torch.arange(len(self.x))
        rank, size = self.shard
        for batch in order.to(self.x.device).split(self.batch_size):
            rows = len(batch) // size
            if rows:
                index = batch[rank * rows : (rank + 1) * rows]
                x = self.x[index]
                yield x if self.augment is None else self.augment(x), self.y[index]
