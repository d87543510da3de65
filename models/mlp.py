"""Fully connected networks."""

from itertools import pairwise

import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from l0bayes.arguments import checked_but
from l0bayes.checks import check_dropout, is_count


class MLP(nn.Module):
    """A fully connected network with ReLU between its layers, named ``fc1``, ``fc2`` and so on.

    Args:
        sizes: features of the input, of each hidden layer, and of the output; the paper's is 784, 300, 100, 10.
        dropout: probability that a hidden feature is dropped in training.

    Raises:
        ValueError: if there are fewer than two sizes, one is not positive, or ``dropout`` is not in [0, 1).
    """

    @checked_but("sizes")
    def __init__(self, *sizes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if len(sizes) < 2 or not all(map(is_count, sizes)):  # noqa: PLR2004
            raise ValueError(f"sizes must be two or more positive integers, such as 784, 300, 100, 10; got {sizes}")
        check_dropout(dropout)
        self.sizes = sizes
        self.dropout = dropout
        for number, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            self.add_module(f"fc{number}", nn.Linear(fan_in, fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs of shape ``(batch, …)``, flattened, to outputs of shape ``(batch, sizes[-1])``."""
        x = x.flatten(1)
        *hidden, last = self.children()
        for layer in hidden:
            x = layer(x).relu()
            if self.dropout:
                x = F.dropout(x, self.dropout, self.training)
        output: Tensor = last(x)
        return output
