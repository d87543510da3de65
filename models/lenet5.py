"""LeNet-5 as Caffe has it."""

import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from l0bayes.arguments import checked_but
from l0bayes.checks import check_dropout, is_count


class LeNet5(nn.Module):
    """Caffe's LeNet-5, 20-50-800-500: two convolutions, named ``conv1`` and ``conv2``, then ``fc1`` and ``fc2``.

    ReLU and then 2×2 max-pooling follow each convolution, as in Louizos et al. 2018 (arXiv 1712.01312).

    Args:
        num_classes: outputs, one for each class.
        in_channels: channels of the 28×28 input images.
        dropout: probability that an input of ``fc2`` is dropped in training.

    Raises:
        ValueError: if a number is not a positive integer, or ``dropout`` is not in [0, 1).
    """

    @checked_but("num_classes", "in_channels")
    def __init__(self, num_classes: int = 10, in_channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        for name, number in (("num_classes", num_classes), ("in_channels", in_channels)):
            if not is_count(number):
                raise ValueError(f"{name} must be a positive integer; got {number!r}")
        check_dropout(dropout)
        self.dropout = dropout
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images of shape ``(batch, in_channels, 28, 28)`` to outputs of shape ``(batch, num_classes)``."""
        x = F.max_pool2d(self.conv1(x).relu(), 2)
        x = F.max_pool2d(self.conv2(x).relu(), 2)
        x = self.fc1(x.flatten(1)).relu()
        if self.dropout:
            x = F.dropout(x, self.dropout, self.training)
        output: Tensor = self.fc2(x)
        return output
